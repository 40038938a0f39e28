// Messages carry the values of calls and replies: who uses the one uses the others.
@_exported public import GranuleCalls
