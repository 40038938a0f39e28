// Who embeds an engine makes calls and takes replies.
@_exported public import GranuleCalls
