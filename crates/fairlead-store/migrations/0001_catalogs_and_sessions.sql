CREATE TABLE catalogs (
    server       TEXT   NOT NULL,
    capabilities TEXT   NOT NULL,
    identity     TEXT   NOT NULL,
    body         TEXT   NOT NULL,
    learned_ms   BIGINT NOT NULL,
    PRIMARY KEY (server, capabilities)
);

CREATE TABLE session_records (
    session_key   TEXT   NOT NULL PRIMARY KEY,
    ended         BIGINT NOT NULL,
    log_level     TEXT   NOT NULL,
    subscriptions TEXT   NOT NULL,
    expires_ms    BIGINT NOT NULL
);

CREATE INDEX session_records_by_expiry ON session_records (expires_ms);
