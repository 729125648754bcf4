-- migrate:up
CREATE TABLE orders(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users, cents INTEGER NOT NULL) STRICT;

-- migrate:down
DROP TABLE orders;
