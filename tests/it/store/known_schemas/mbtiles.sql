-- Map tiles, deduplicated behind a view, with the application id of the format.

-- [made]
PRAGMA page_size = 65536;
PRAGMA application_id = 0x4d504258;
CREATE TABLE metadata(name text, value text);
CREATE TABLE map(zoom_level integer, tile_column integer, tile_row integer, tile_id text, grid_id text);
CREATE TABLE images(tile_data blob, tile_id text);
CREATE UNIQUE INDEX name ON metadata(name);
CREATE UNIQUE INDEX map_index ON map(zoom_level, tile_column, tile_row);
CREATE UNIQUE INDEX images_id ON images(tile_id);
CREATE VIEW tiles AS
    SELECT map.zoom_level AS zoom_level, map.tile_column AS tile_column, map.tile_row AS tile_row,
        images.tile_data AS tile_data
    FROM map JOIN images ON images.tile_id = map.tile_id;
CREATE TRIGGER tiles_insert INSTEAD OF INSERT ON tiles BEGIN
    INSERT OR IGNORE INTO images VALUES (new.tile_data, hex(substr(new.tile_data, 1, 4)) || length(new.tile_data));
    INSERT OR REPLACE INTO map VALUES (new.zoom_level, new.tile_column, new.tile_row,
        hex(substr(new.tile_data, 1, 4)) || length(new.tile_data), NULL);
END;
CREATE TRIGGER tiles_update INSTEAD OF UPDATE OF tile_row ON tiles BEGIN
    UPDATE map SET tile_row = new.tile_row
        WHERE zoom_level = old.zoom_level AND tile_column = old.tile_column AND tile_row = old.tile_row;
END;
CREATE TRIGGER tiles_delete INSTEAD OF DELETE ON tiles BEGIN
    DELETE FROM map
        WHERE zoom_level = old.zoom_level AND tile_column = old.tile_column AND tile_row = old.tile_row;
    DELETE FROM images WHERE tile_id NOT IN (SELECT tile_id FROM map WHERE tile_id IS NOT NULL);
END;
INSERT INTO metadata VALUES ('name', 'Straßen und 道路'), ('format', 'png'), ('minzoom', '0'), ('json', NULL);
INSERT INTO tiles VALUES (0, 0, 0, x'89504e470d0a1a0a'), (1, 0, 0, x'89504e470d0a1a0a'), (1, 1, 0, zeroblob(200000)),
    (1, 1, 1, x'1f8b0800');

-- [write]
INSERT INTO tiles VALUES (2, 0, 0, zeroblob(200000)), (2, 1, 0, x'00112233445566');
UPDATE tiles SET tile_row = 3 WHERE zoom_level = 2 AND tile_column = 1;
DELETE FROM tiles WHERE zoom_level = 1 AND tile_row = 1;
INSERT INTO metadata VALUES ('name', 'Wege') ON CONFLICT(name) DO UPDATE SET value = excluded.value;

-- [read]
SELECT zoom_level, tile_row, length(tile_data) FROM tiles WHERE zoom_level = 2 ORDER BY tile_column;
SELECT count(*), count(DISTINCT tile_id) FROM map;

-- [migrate]
ALTER TABLE images ADD COLUMN hash blob;

-- [migrate]
PRAGMA legacy_alter_table = ON;
CREATE TABLE metadata_strict(name text PRIMARY KEY NOT NULL, value text) STRICT, WITHOUT ROWID;
INSERT INTO metadata_strict SELECT name, value FROM metadata;
DROP TABLE metadata;
ALTER TABLE metadata_strict RENAME TO metadata;
CREATE VIEW package_tiles AS SELECT * FROM tiles WHERE tile_data IS NOT NULL;
