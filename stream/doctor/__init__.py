"""What `difffake doctor` looks at: this host, what is installed on it, which engines run, and whether Kafka will do."""
