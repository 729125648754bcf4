-- +goose Up
CREATE TABLE totals(user_id INTEGER PRIMARY KEY REFERENCES users, cents INTEGER NOT NULL) STRICT;
-- +goose StatementBegin
CREATE TRIGGER orders_count AFTER INSERT ON orders
BEGIN
    INSERT OR IGNORE INTO totals VALUES (new.user_id, 0);
    UPDATE totals SET cents = cents + new.cents WHERE user_id = new.user_id;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER orders_count;
DROP TABLE totals;
