// What a program imports to train, evaluate and distil dictionaries.
@_exported public import GranuleData
@_exported public import GranuleDictionary
@_exported public import GranuleDistillation
@_exported public import GranuleErrors
@_exported public import GranuleEvaluation
@_exported public import GranuleObjective
@_exported public import GranuleRun
