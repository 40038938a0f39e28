"""Writes the event file that EventFile must write, with TensorBoard's own code.

pip install tensorboard
python make_event_file.py     # writes event_file.tfevents beside this file
"""

import os

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "event_file.tfevents")
with open(path, "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1.5, file_version="brain.Event:2").SerializeToString())
    values = [("loss", 0.25), ("zero", 0.0), ("fvu/16", 0.5)]
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
    writer.write(Event(wall_time=2.5, step=7, summary=summary).SerializeToString())
