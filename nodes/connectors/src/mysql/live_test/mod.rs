//! Tests against a real server at `GREYLAG_TEST_MYSQL_URL` (see `tests/databases`).
