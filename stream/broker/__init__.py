"""The broker behind one contract: Apache Kafka, and an in-memory twin with the same semantics."""
