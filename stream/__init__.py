"""The live side of DiffFake: the command line now, the Kafka worker beside it."""
