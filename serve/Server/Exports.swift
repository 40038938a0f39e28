// Who embeds a server sets the engine's limits and may submit calls to it.
@_exported public import GranuleEngine
