-- The history and the bookmarks of Firefox. The triggers that keep the counts are temporary: the program makes them on
-- its connection.

-- [made]
PRAGMA page_size = 32768;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA user_version = 77;
CREATE TABLE moz_origins(
    id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, host TEXT NOT NULL, frecency INTEGER NOT NULL,
    recalc_frecency INTEGER NOT NULL DEFAULT 0, UNIQUE(prefix, host));
CREATE TABLE moz_places(
    id INTEGER PRIMARY KEY, url LONGVARCHAR, title LONGVARCHAR, rev_host LONGVARCHAR, visit_count INTEGER DEFAULT 0,
    hidden INTEGER DEFAULT 0 NOT NULL, typed INTEGER DEFAULT 0 NOT NULL, frecency INTEGER DEFAULT -1 NOT NULL,
    last_visit_date INTEGER, guid TEXT, foreign_count INTEGER DEFAULT 0 NOT NULL, url_hash INTEGER DEFAULT 0 NOT NULL,
    description TEXT, preview_image_url TEXT, origin_id INTEGER REFERENCES moz_origins(id));
CREATE TABLE moz_historyvisits(
    id INTEGER PRIMARY KEY, from_visit INTEGER, place_id INTEGER, visit_date INTEGER, visit_type INTEGER,
    session INTEGER);
CREATE TABLE moz_bookmarks(
    id INTEGER PRIMARY KEY, type INTEGER, fk INTEGER DEFAULT NULL, parent INTEGER, position INTEGER,
    title LONGVARCHAR, keyword_id INTEGER, dateAdded INTEGER, lastModified INTEGER, guid TEXT,
    syncStatus INTEGER NOT NULL DEFAULT 0, syncChangeCounter INTEGER NOT NULL DEFAULT 1);
CREATE TABLE moz_keywords(
    id INTEGER PRIMARY KEY AUTOINCREMENT, keyword TEXT UNIQUE, place_id INTEGER, post_data TEXT);
CREATE TABLE moz_inputhistory(
    place_id INTEGER NOT NULL, input LONGVARCHAR NOT NULL, use_count INTEGER, PRIMARY KEY (place_id, input));
CREATE TABLE moz_meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE moz_icons(
    id INTEGER PRIMARY KEY, icon_url TEXT NOT NULL, fixed_icon_url_hash INTEGER NOT NULL,
    width INTEGER NOT NULL DEFAULT 0, data BLOB);
CREATE INDEX moz_places_url_hashindex ON moz_places(url_hash);
CREATE INDEX moz_places_hostindex ON moz_places(rev_host);
CREATE INDEX moz_places_frecencyindex ON moz_places(frecency);
CREATE UNIQUE INDEX moz_places_guid_uniqueindex ON moz_places(guid);
CREATE INDEX moz_historyvisits_placedateindex ON moz_historyvisits(place_id, visit_date);
CREATE INDEX moz_bookmarks_parentindex ON moz_bookmarks(parent, position);
CREATE UNIQUE INDEX moz_keywords_placepostdata_uniqueindex ON moz_keywords(place_id, post_data);
CREATE UNIQUE INDEX moz_bookmarks_guid_uniqueindex ON moz_bookmarks(guid);
INSERT INTO moz_origins(id, prefix, host, frecency) VALUES (1, 'https://', 'example.org', 2000),
    (2, 'https://', 'bücher.example', 100), (3, 'place:', '', -1);
INSERT INTO moz_places(id, url, title, rev_host, guid, url_hash, origin_id)
    VALUES (1, 'https://example.org/', 'Example', 'gro.elpmaxe.', 'aaaaaaaaaaaa', 47358032953464, 1),
        (2, 'https://bücher.example/über?q=日本語', NULL, 'elpmaxe.rehcüb.', 'bbbbbbbbbbbb', -9223372036854775808, 2),
        (3, 'place:sort=8&maxResults=10', '', '.', 'cccccccccccc', 9223372036854775807, 3);
INSERT INTO moz_historyvisits VALUES (1, 0, 1, 1700000000000000, 1, 0), (2, 1, 2, 1700000001000000, 2, 0);
INSERT INTO moz_bookmarks(id, type, fk, parent, position, title, guid) VALUES (1, 2, NULL, 0, 0, '', 'root________'),
    (2, 2, NULL, 1, 0, 'menu', 'menu________'), (3, 1, 1, 2, 0, 'Ein Lesezeichen ☆', 'dddddddddddd');
INSERT INTO moz_keywords(keyword, place_id, post_data) VALUES ('ex', 1, NULL), ('bü', 2, 'a=b');
INSERT INTO moz_inputhistory VALUES (1, 'exa', 3), (1, 'ex', 0.9);
INSERT INTO moz_meta VALUES ('sync/bookmarks/syncId', 'x'), ('origin_frecency_sum', 12.5), ('empty', x'');
INSERT INTO moz_icons VALUES (1, 'https://example.org/favicon.ico', 1, 16, x'89504e470d0a1a0a00ff'), (2, 'x', 2, 32, NULL);

-- [write]
INSERT INTO moz_historyvisits VALUES (3, 2, 1, 1700000002000000, 1, 0), (4, 3, 3, 1700000003000000, 8, 0);
DELETE FROM moz_historyvisits WHERE id = 2;
UPDATE moz_bookmarks SET title = 'ein anderer 名前', fk = 2 WHERE guid = 'dddddddddddd';
DELETE FROM moz_inputhistory WHERE use_count < 1;
REPLACE INTO moz_meta VALUES ('origin_frecency_sum', 13);

-- [read]
SELECT h.url, p.visit_count, p.last_visit_date FROM moz_places AS p JOIN moz_places AS h USING (id)
    WHERE p.rev_host >= 'e' ORDER BY p.frecency DESC, p.id;
WITH RECURSIVE tree(id, path) AS (SELECT id, guid FROM moz_bookmarks WHERE parent = 0 UNION ALL
        SELECT b.id, path || '/' || b.title FROM moz_bookmarks AS b JOIN tree AS t ON b.parent = t.id)
    SELECT * FROM tree;

-- [migrate]
ALTER TABLE moz_places ADD COLUMN site_name TEXT;
ALTER TABLE moz_places ADD COLUMN alt_frecency INTEGER NOT NULL DEFAULT -1;
CREATE INDEX moz_places_altfrecencyindex ON moz_places(alt_frecency) WHERE alt_frecency <> -1;

-- [migrate]
CREATE TABLE moz_keywords_new(
    id INTEGER PRIMARY KEY AUTOINCREMENT, keyword TEXT NOT NULL UNIQUE, place_id INTEGER, post_data TEXT NOT NULL);
INSERT INTO moz_keywords_new SELECT id, keyword, place_id, ifnull(post_data, '') FROM moz_keywords;
DROP TABLE moz_keywords;
ALTER TABLE moz_keywords_new RENAME TO moz_keywords;
CREATE UNIQUE INDEX moz_keywords_placepostdata_uniqueindex ON moz_keywords(place_id, post_data);
