-- The index of a program that keeps folders in sync between devices: strict tables, most of them without rowids.

-- [made]
PRAGMA page_size = 8192;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA application_id = 1398363497;
CREATE TABLE devices (
    idx INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL UNIQUE COLLATE BINARY) STRICT;
CREATE TABLE kv (key TEXT NOT NULL PRIMARY KEY COLLATE BINARY, value BLOB NOT NULL) STRICT;
CREATE TABLE file_names (idx INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE files (
    device_idx INTEGER NOT NULL, sequence INTEGER, remote_sequence INTEGER, name_idx INTEGER NOT NULL,
    type INTEGER NOT NULL CHECK (type BETWEEN 0 AND 4), modified INTEGER NOT NULL, size INTEGER NOT NULL,
    version TEXT NOT NULL, deleted INTEGER NOT NULL, local_flags INTEGER NOT NULL, blocklist_hash BLOB,
    extra ANY, needed INTEGER GENERATED ALWAYS AS (local_flags & 2 <> 0) VIRTUAL,
    PRIMARY KEY (device_idx, name_idx),
    FOREIGN KEY (device_idx) REFERENCES devices(idx) ON DELETE CASCADE,
    FOREIGN KEY (name_idx) REFERENCES file_names(idx)) STRICT, WITHOUT ROWID;
CREATE TABLE blocks (
    hash BLOB NOT NULL, blocklist_hash BLOB NOT NULL, idx INTEGER NOT NULL, offset INTEGER NOT NULL,
    size INTEGER NOT NULL, PRIMARY KEY (hash, blocklist_hash, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE counts (
    device_idx INTEGER NOT NULL REFERENCES devices(idx) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    type INTEGER NOT NULL, count INTEGER NOT NULL, size INTEGER NOT NULL, ratio REAL,
    PRIMARY KEY (device_idx, type)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX files_sequence ON files (device_idx, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX files_blocklist ON files (blocklist_hash) WHERE blocklist_hash IS NOT NULL;
CREATE INDEX files_size ON files (max(size, 0) DESC) WHERE NOT deleted;
CREATE VIEW needed_files AS
    SELECT n.name, f.* FROM files AS f JOIN file_names AS n ON n.idx = f.name_idx WHERE f.needed;
CREATE TRIGGER files_insert AFTER INSERT ON files WHEN NOT new.deleted
BEGIN
    INSERT INTO counts (device_idx, type, count, size) VALUES (new.device_idx, new.type, 1, new.size)
        ON CONFLICT DO UPDATE SET count = count + 1, size = counts.size + new.size, ratio = count / 2.0;
END;
CREATE TRIGGER files_delete AFTER DELETE ON files WHEN NOT old.deleted
BEGIN
    UPDATE counts SET count = count - 1, size = size - old.size
        WHERE device_idx = old.device_idx AND type = old.type;
END;
CREATE TRIGGER files_update AFTER UPDATE ON files WHEN NOT new.deleted OR NOT old.deleted
BEGIN
    UPDATE counts SET count = count + (NOT new.deleted) - (NOT old.deleted), size = size - old.size + new.size
        WHERE device_idx = new.device_idx AND type = new.type;
END;
INSERT INTO devices VALUES (1, 'AAAA-local'), (3, 'BBBB'), (7, 'CCCC');
DELETE FROM devices WHERE idx = 7;
INSERT INTO kv VALUES ('folder/label', CAST('Größe 📁' AS BLOB)), ('leer', x'');
INSERT INTO file_names VALUES (1, 'a.txt'), (2, 'ä/ö.txt'), (3, 'ディレクトリ');
INSERT INTO files (device_idx, sequence, name_idx, type, modified, size, version, deleted, local_flags, blocklist_hash, extra)
    VALUES (1, 1, 1, 0, 1700000000000000000, 10, 'v1', 0, 0, x'aa', 1), (1, 2, 2, 0, 0, 9007199254740993, 'v1', 0, 2, NULL, 'text'),
        (3, NULL, 1, 0, -1, 0, '', 1, 2, x'aa', 1.5), (3, 5, 3, 1, 0, 128, 'v9', 0, 0, NULL, NULL), (3, 6, 2, 0, 0, 5, 'v2', 0, 2, x'bb', x'00');
INSERT INTO blocks WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    SELECT CAST('hash ' || i * 7919 % 401 AS BLOB), x'aa', i, i * 131072, 131072 FROM n;

-- [write]
INSERT INTO counts VALUES (8, 0, 0, 0, NULL);
INSERT INTO devices (device_id) VALUES ('DDDD');
INSERT INTO file_names (name) VALUES ('neu');
INSERT OR REPLACE INTO files (device_idx, sequence, name_idx, type, modified, size, version, deleted, local_flags)
    VALUES (8, 1, 4, 0, 0, 77, 'v1', 0, 2);
UPDATE files SET deleted = 1, sequence = 3, size = 0 WHERE device_idx = 1 AND name_idx = 1;
DELETE FROM devices WHERE device_id = 'BBBB';
DELETE FROM blocks WHERE idx % 3 = 0;

-- [read]
SELECT name, sequence, size, needed FROM needed_files ORDER BY device_idx, name;
SELECT * FROM counts ORDER BY device_idx, type;
SELECT name_idx FROM files WHERE NOT deleted ORDER BY max(size, 0) DESC;
SELECT typeof(extra) FROM files ORDER BY device_idx, name_idx;

-- [migrate]
ALTER TABLE files ADD COLUMN previous_blocklist_hash BLOB;
ALTER TABLE kv ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;

-- [migrate]
CREATE TABLE blocks_new (
    hash BLOB NOT NULL, blocklist_hash BLOB NOT NULL, idx INTEGER NOT NULL, offset INTEGER NOT NULL,
    size INTEGER NOT NULL CHECK (size > 0), PRIMARY KEY (blocklist_hash, idx)) STRICT, WITHOUT ROWID;
INSERT INTO blocks_new SELECT hash, blocklist_hash, idx, offset, size FROM blocks;
DROP TABLE blocks;
ALTER TABLE blocks_new RENAME TO blocks;
CREATE INDEX blocks_hash ON blocks (hash);
