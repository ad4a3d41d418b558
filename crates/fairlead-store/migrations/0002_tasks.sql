CREATE TABLE tasks (
    task_id    TEXT   NOT NULL PRIMARY KEY,
    owner      TEXT   NOT NULL,
    body       TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE INDEX tasks_by_owner ON tasks (owner, created_ms);
CREATE INDEX tasks_by_expiry ON tasks (expires_ms);
