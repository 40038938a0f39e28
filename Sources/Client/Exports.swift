// Who asks a server names its address, and uses the values of calls and replies.
@_exported public import GranuleCalls
@_exported public import GranuleTransport
