"""Encodes activations with a Granule server and decodes them again, by its wire contract alone.

pip install numpy protobuf grpcio-tools
python3 -m grpc_tools.protoc --proto_path=proto --python_out=examples proto/granule.proto
python3 examples/encode.py 127.0.0.1:7700 MODEL activations.npy
"""

import socket
import struct
import sys

import granule_pb2 as granule
import numpy


def call(connection: socket.socket, request: granule.Request) -> granule.Response:
    """Sends one request and waits for its answer: a big-endian length, then a message, each way."""
    payload = request.SerializeToString()
    connection.sendall(struct.pack(">I", len(payload)) + payload)
    stream = connection.makefile("rb")
    response = granule.Response.FromString(stream.read(struct.unpack(">I", stream.read(4))[0]))
    if response.HasField("error"):
        sys.exit(f"{granule.Code.Name(response.error.code)}: {response.error.message}")
    return response


address, model, path = sys.argv[1:4]
activations = numpy.load(path)
activations = activations.reshape(-1, activations.shape[-1])[:256].astype("<f4")
host, port = address.rsplit(":", 1)
with socket.create_connection((host, int(port))) as connection:
    tensor = granule.Tensor(
        type=granule.DATA_TYPE_F32, shape=activations.shape, data=activations.tobytes()
    )
    encode = granule.EncodeRequest(model=model, activations=tensor)
    encoded = call(connection, granule.Request(id=1, encode=encode)).encode
    counts = numpy.diff(numpy.frombuffer(encoded.codes.row_offsets, "<u4"))
    print(
        f"{model} version {encoded.version}: {encoded.granularity} latents, "
        f"{counts.mean():.1f} active a token, fvu {encoded.fvu if encoded.has_fvu else 'unknown'}"
    )

    decode = granule.DecodeRequest(model=model, version=encoded.version, codes=encoded.codes)
    decoded = call(connection, granule.Request(id=2, decode=decode)).decode.reconstruction
    reconstruction = numpy.frombuffer(decoded.data, "<f4").reshape(decoded.shape)
    errors = ((activations - reconstruction) ** 2).sum(1)
    told = numpy.frombuffer(encoded.squared_errors, "<f4")
    print(f"squared errors agree: {numpy.allclose(errors, told, rtol=1e-3)}")
