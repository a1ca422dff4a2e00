//! End-to-end tests, one file a capability. Each runs against the PostgreSQL version in `POSTERN_TEST_PG` and a real
//! RabbitMQ; `make test` runs them all against every version.

mod harness;
