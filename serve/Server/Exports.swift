// Who embeds a server says where it listens, sets the engine's limits and may submit calls to it.
@_exported public import GranuleEngine
@_exported public import GranuleTransport
