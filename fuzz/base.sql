-- What the databases that are damaged have in them.
CREATE TABLE item(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL CHECK (size > 0), note TEXT,
    twice INTEGER AS (size * 2) STORED, label TEXT AS (name || size)
) STRICT;
CREATE INDEX item_name ON item(name);
CREATE UNIQUE INDEX item_size ON item(size, id) WHERE size > 5;
CREATE INDEX item_expression ON item(lower(name), length(note));
CREATE TABLE pair(a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE child(id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item(id) ON DELETE CASCADE) STRICT;
CREATE TABLE mark(id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL) STRICT;
CREATE VIEW large AS SELECT id, name FROM item WHERE size > 10;
CREATE TABLE journal(line TEXT);
CREATE TRIGGER item_changed AFTER UPDATE OF size ON item WHEN new.size % 8 = 0
    BEGIN INSERT INTO journal VALUES ('changed ' || new.id); END;
CREATE VIRTUAL TABLE words USING fts5(text);
CREATE VIRTUAL TABLE box USING rtree(id, x1, x2, y1, y2);

WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
    INSERT INTO item(name, size, note) SELECT 'item ' || i, i, hex(zeroblob((i * i) % 700)) FROM n;
INSERT INTO pair SELECT name, size, note FROM item WHERE id <= 30;
INSERT INTO child(item) SELECT id FROM item WHERE id % 2;
INSERT INTO words SELECT 'some words, word' || id || ', and ' || name FROM item WHERE id <= 20;
INSERT INTO box SELECT id, id, id + 1, id, id + 2 FROM item WHERE id <= 20;
INSERT INTO mark(text) VALUES ('the first'), ('the last');
-- Free pages.
CREATE TABLE gone AS SELECT note FROM item;
DROP TABLE gone;
ANALYZE;
