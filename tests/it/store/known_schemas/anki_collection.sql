-- A collection of Anki. The program brings the collation `unicase`.

-- [made]
PRAGMA journal_mode = WAL;
CREATE TABLE col(
    id integer PRIMARY KEY, crt integer NOT NULL, mod integer NOT NULL, scm integer NOT NULL, ver integer NOT NULL,
    dty integer NOT NULL, usn integer NOT NULL, ls integer NOT NULL, conf text NOT NULL, models text NOT NULL,
    decks text NOT NULL, dconf text NOT NULL, tags text NOT NULL);
CREATE TABLE notes(
    id integer PRIMARY KEY, guid text NOT NULL, mid integer NOT NULL, mod integer NOT NULL, usn integer NOT NULL,
    tags text NOT NULL, flds text NOT NULL, sfld integer NOT NULL, csum integer NOT NULL, flags integer NOT NULL,
    data text NOT NULL);
CREATE TABLE cards(
    id integer PRIMARY KEY, nid integer NOT NULL, did integer NOT NULL, ord integer NOT NULL, mod integer NOT NULL,
    usn integer NOT NULL, type integer NOT NULL, queue integer NOT NULL, due integer NOT NULL, ivl integer NOT NULL,
    factor integer NOT NULL, reps integer NOT NULL, lapses integer NOT NULL, left integer NOT NULL,
    odue integer NOT NULL, odid integer NOT NULL, flags integer NOT NULL, data text NOT NULL);
CREATE TABLE revlog(
    id integer PRIMARY KEY, cid integer NOT NULL, usn integer NOT NULL, ease integer NOT NULL, ivl integer NOT NULL,
    lastIvl integer NOT NULL, factor integer NOT NULL, time integer NOT NULL, type integer NOT NULL);
CREATE TABLE graves(oid integer NOT NULL, type integer NOT NULL, usn integer NOT NULL, PRIMARY KEY (oid, type))
    WITHOUT ROWID;
CREATE TABLE deck_config(
    id integer PRIMARY KEY NOT NULL, name text NOT NULL COLLATE unicase, mtime_secs integer NOT NULL,
    usn integer NOT NULL, config blob NOT NULL);
CREATE TABLE config(
    KEY text NOT NULL PRIMARY KEY, usn integer NOT NULL, mtime_secs integer NOT NULL, val blob NOT NULL)
    WITHOUT ROWID;
CREATE TABLE fields(
    ntid integer NOT NULL, ord integer NOT NULL, name text NOT NULL COLLATE unicase, config blob NOT NULL,
    PRIMARY KEY (ntid, ord)) WITHOUT ROWID;
CREATE TABLE notetypes(
    id integer NOT NULL PRIMARY KEY, name text NOT NULL COLLATE unicase, mtime_secs integer NOT NULL,
    usn integer NOT NULL, config blob NOT NULL);
CREATE TABLE decks(
    id integer PRIMARY KEY NOT NULL, name text NOT NULL COLLATE unicase, mtime_secs integer NOT NULL,
    usn integer NOT NULL, common blob NOT NULL, kind blob NOT NULL);
CREATE TABLE tags(
    tag text NOT NULL PRIMARY KEY COLLATE unicase, usn integer NOT NULL, collapsed boolean NOT NULL,
    config blob NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX idx_fields_name_ntid ON fields(name, ntid);
CREATE UNIQUE INDEX idx_notetypes_name ON notetypes(name);
CREATE UNIQUE INDEX idx_decks_name ON decks(name);
CREATE INDEX idx_notes_mid ON notes(mid);
CREATE INDEX idx_cards_odid ON cards(odid) WHERE odid <> 0;
CREATE INDEX ix_cards_sched ON cards(did, queue, due);
CREATE INDEX ix_notes_csum ON notes(csum);
CREATE INDEX ix_revlog_usn ON revlog(usn);
INSERT INTO col VALUES (1, 1700000000, 1700000001000, 1700000002000, 18, 0, -1, 0, '{}', '', '', '', '');
INSERT INTO notes VALUES (1700000000001, 'x%y', 1, 0, -1, ' marked Über ', 'Straße' || char(31) || 'street', 'Straße', 42, 0, ''),
    (1700000000002, 'z', 1, 0, -1, '', '12' || char(31) || '十二', '12', 43, 0, '');
INSERT INTO cards VALUES (1, 1700000000001, 1, 0, 0, -1, 0, 0, 1, 0, 2500, 0, 0, 1001, 0, 0, 0, '{}'),
    (2, 1700000000002, 7, 0, 0, -1, 2, 2, 19000, 10, 2500, 3, 1, 0, 3, 1, 0, '');
INSERT INTO revlog VALUES (1700000000100, 2, -1, 3, 10, 4, 2500, 5300, 1);
INSERT INTO graves VALUES (5, 1, 3), (5, 0, 3);
INSERT INTO config VALUES ('schedVer', 0, 0, x'32'), ('creationOffset', 0, 0, x'2d3630'), ('empty', -1, 0, x'');
INSERT INTO notetypes VALUES (1, 'Basic', 0, 0, x'0a'), (2, 'Ärger', 0, 0, x'');
INSERT INTO fields VALUES (1, 0, 'Front', x'00ff'), (1, 1, 'Back', x''), (2, 0, 'front', x'00');
INSERT INTO decks VALUES (1, 'Default', 0, 0, x'0801', x'0a020801'), (7, 'Übung' || char(31) || 'Wörter', 0, 0, x'', x'');
INSERT INTO deck_config VALUES (1, 'Default', 0, 0, x'0d');
INSERT INTO tags VALUES ('marked', 0, 0, NULL), ('Über', 0, 1, x'01');

-- [write]
INSERT INTO decks VALUES (8, 'ÄPFEL', 1, -1, x'', x'');
INSERT OR IGNORE INTO tags VALUES ('ÜBER', 1, 0, NULL), ('neu', 1, 0, NULL);
UPDATE cards SET odid = did, did = 8 WHERE queue = 2;
DELETE FROM notetypes WHERE name = 'äRGER';
REPLACE INTO graves VALUES (5, 0, -1);

-- [read]
SELECT name FROM decks ORDER BY name;
SELECT ntid, ord FROM fields WHERE name = 'FRONT' ORDER BY ntid;
SELECT tag FROM tags WHERE tag >= 'N';
SELECT id FROM cards WHERE odid <> 0;

-- [migrate]
ALTER TABLE cards ADD COLUMN desired_retention real;
ALTER TABLE tags ADD COLUMN expanded boolean NOT NULL DEFAULT 0;

-- [migrate]
CREATE TABLE new_tags(
    tag text NOT NULL PRIMARY KEY COLLATE unicase, usn integer NOT NULL, collapsed boolean NOT NULL,
    config blob NULL, expanded boolean NOT NULL DEFAULT 0, parent text COLLATE unicase) WITHOUT ROWID;
INSERT INTO new_tags SELECT tag, usn, collapsed, config, expanded, NULL FROM tags;
DROP TABLE tags;
ALTER TABLE new_tags RENAME TO tags;
CREATE INDEX idx_tags_parent ON tags(parent) WHERE parent IS NOT NULL;
