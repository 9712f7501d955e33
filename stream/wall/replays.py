"""Where the score of an alert's first frame lies, for alerts that are older than what the wall has read of the scores.

Scores and alerts of one moment are written together, and those of a stream lie in one partition: a short stretch of
that partition, before the alert was written, is read once.
"""

from __future__ import annotations

from kafka.partitioner import murmur2

from stream.broker.contract import Broker, Reader, TopicPartition
from stream.broker.errors import AuthenticationError, TopicNotFoundError
from stream.messages import AlertRecord, MessageError, ScoreRecord, decode
from stream.wall.model import Wall

#: An alert opens on evidence of seconds; of minutes where a stream is only watched.
_BEFORE_MS, _AFTER_MS = 300_000, 5_000
_MAX_RECORDS = 20_000


class ReplaySearch:
    """Looks for one alert at a time.

    Args:
        wall: whose alerts are meant, and who is told.
        broker: of the cluster.
        reader: of it.
    """

    def __init__(self, wall: Wall, broker: Broker, reader: Reader) -> None:
        self._wall, self._broker, self._reader = wall, broker, reader

    def look(self) -> None:
        """Look for the next one, if there is any.

        Raises:
            BrokerError: Kafka does not answer.
        """
        wanted = self._wall.next_unplaced()
        if wanted is None:
            return
        record, opened_ms = wanted
        try:
            address = self._find(record, opened_ms)
        except (AuthenticationError, TopicNotFoundError):
            address = ""
        self._wall.place_alert(record.id, address)

    def _find(self, record: AlertRecord, opened_ms: int) -> str:
        topic = self._wall.settings.topics.scores
        # As every producer chooses it.
        number = (murmur2(record.key) & 0x7FFFFFFF) % self._broker.partitions(topic)
        partition = TopicPartition(topic, number)
        start = self._reader.offset_for_time(partition, opened_ms - _BEFORE_MS)
        stop = self._reader.offset_for_time(partition, opened_ms + _AFTER_MS)
        if start is None:
            return ""
        stop = min(self._reader.end_offset(partition) if stop is None else stop, start + _MAX_RECORDS)
        found = ""
        for item in self._reader.read(partition, start, stop):
            if item.key != record.key or item.value is None:
                continue
            try:
                score = decode(item.value, ScoreRecord)
            except MessageError:
                continue
            if score.source == record.first:
                return f"{topic}:{number}:{item.offset}"
            if score.source == record.last:
                found = f"{topic}:{number}:{item.offset}"
        return found
