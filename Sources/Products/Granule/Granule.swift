// What a program imports to read dictionaries, encode with them and publish them.
@_exported public import GranuleDictionary
@_exported public import GranuleEncoder
@_exported public import GranuleFiles
@_exported public import GranuleRepository
@_exported public import GranuleTensors
