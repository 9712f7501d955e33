"""What a worker does with the frames of one stream, one after the other, and all that it must remember for that."""

from stream.live.models import LiveModels, Look
from stream.live.saved import OtherModelError
from stream.live.settings import LiveSettings
from stream.live.stream import Frame, LiveStream

__all__ = ["Frame", "LiveModels", "LiveSettings", "LiveStream", "Look", "OtherModelError"]
