"""The live wall: a web page with a tile per stream, fed from the topics of scores and alerts."""
