-- A repository of Fossil: content, and its index for searches.

-- [made]
PRAGMA page_size = 8192;
PRAGMA application_id = 252006673;
CREATE TABLE blob(
    rid INTEGER PRIMARY KEY, rcvid INTEGER, size INTEGER, uuid TEXT UNIQUE NOT NULL, content BLOB,
    CHECK (length(uuid) >= 40 AND rid > 0));
CREATE TABLE delta(rid INTEGER PRIMARY KEY, srcid INTEGER NOT NULL REFERENCES blob);
CREATE TABLE rcvfrom(
    rcvid INTEGER PRIMARY KEY, uid INTEGER REFERENCES user, mtime DATETIME, nonce TEXT UNIQUE, ipaddr TEXT);
CREATE TABLE user(
    uid INTEGER PRIMARY KEY, login TEXT UNIQUE, pw TEXT, cap TEXT, cookie TEXT, cexpire DATETIME, info TEXT,
    photo BLOB);
CREATE TABLE config(
    name TEXT PRIMARY KEY NOT NULL, value CLOB, mtime DATE,
    CHECK (typeof(name) = 'text' AND length(name) >= 1)) WITHOUT ROWID;
CREATE TABLE event(
    type TEXT, mtime DATETIME, objid INTEGER PRIMARY KEY, tagid INTEGER, uid INTEGER REFERENCES user,
    euser TEXT, ecomment TEXT, user TEXT, comment TEXT);
CREATE TABLE tag(tagid INTEGER PRIMARY KEY, tagname TEXT UNIQUE);
CREATE TABLE tagxref(
    tagid INTEGER REFERENCES tag, tagtype INTEGER, srcid INTEGER REFERENCES blob, origid INTEGER REFERENCES blob,
    value TEXT, mtime TIMESTAMP, rid INTEGER REFERENCES blob, UNIQUE(rid, tagid));
CREATE TABLE plink(
    pid INTEGER REFERENCES blob, cid INTEGER REFERENCES blob, isprim BOOLEAN, mtime DATETIME, UNIQUE(pid, cid));
CREATE TABLE unversioned(
    uvid INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, mtime DATETIME, hash TEXT, content BLOB);
CREATE TABLE ticket(
    tkt_id INTEGER PRIMARY KEY, tkt_uuid TEXT UNIQUE, tkt_mtime DATE, status TEXT DEFAULT 'Open', title TEXT);
CREATE TABLE ftsdocs(
    rowid INTEGER PRIMARY KEY, type CHAR(1), rid INTEGER, name TEXT, idxed BOOLEAN, label TEXT, bx TEXT,
    UNIQUE(type, rid));
CREATE INDEX delta_i1 ON delta(srcid);
CREATE INDEX event_i1 ON event(mtime);
CREATE INDEX tagxref_i1 ON tagxref(tagid, mtime);
CREATE INDEX plink_i2 ON plink(cid, pid);
CREATE INDEX ftsdocIdxed ON ftsdocs(type, rid, name) WHERE idxed == 0;
CREATE INDEX ticket_upper ON ticket(upper(status), tkt_mtime DESC);
CREATE VIEW ftscontent AS
    SELECT rowid, type, rid, name, idxed, label AS title, bx AS body FROM ftsdocs;
CREATE VIRTUAL TABLE ftsidx USING fts5(content = "ftscontent", title, body);
CREATE VIEW artifact(rid, hash, size, src) AS
    SELECT blob.rid, uuid, size, delta.srcid FROM blob LEFT JOIN delta ON (blob.rid = delta.rid) WHERE size >= 0;
INSERT INTO user VALUES (1, 'ada', 'x', 's', NULL, NULL, 'Ada <ada@example.org>', x'ffd8ffe0'), (2, 'nobody', '', 'gjorz', NULL, NULL, NULL, NULL);
INSERT INTO rcvfrom VALUES (1, 1, 2460310.5, NULL, '127.0.0.1');
INSERT INTO blob VALUES (1, 1, 5, '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824', x'68656c6c6f'),
    (2, 1, -1, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', NULL), (3, 1, 9000, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', zeroblob(9000));
INSERT INTO delta VALUES (3, 1);
INSERT INTO config VALUES ('project-name', 'Größe', 1700000000), ('server-code', x'00', 0), ('skin', NULL, NULL);
INSERT INTO event VALUES ('ci', 2460310.75, 1, NULL, 1, NULL, NULL, 'ada', 'erste Fassung: 初版'), ('w', 0.5, 3, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO tag VALUES (1, 'bgcolor'), (8, 'branch'), (9, 'sym-trunk');
INSERT INTO tagxref VALUES (8, 2, 1, 1, 'trunk', 2460310.75, 1), (9, 2, 1, NULL, NULL, 2460310.75, 1);
INSERT INTO plink VALUES (1, 3, 1, 2460311.0);
INSERT INTO unversioned(name, mtime, hash, content) VALUES ('download/a.tgz', 1700000000, 'cc', x'1f8b');
INSERT INTO ticket(tkt_uuid, tkt_mtime, status, title) VALUES ('t1', 2460310, 'Open', 'Absturz'), ('t2', 2460311, 'fixed', NULL);
INSERT INTO ftsdocs VALUES (1, 't', 1, NULL, 1, 'Absturz', 'beim Öffnen einer Datei'), (2, 'c', 1, 'ci', 1, 'erste Fassung', '初版'), (3, 'w', 3, 'x', 0, NULL, NULL);
INSERT INTO ftsidx(rowid, title, body) SELECT rowid, title, body FROM ftscontent WHERE idxed;

-- [write]
INSERT INTO blob VALUES (4, 1, 0, 'cccccccccccccccccccccccccccccccccccccccc', x'');
INSERT INTO delta VALUES (4, 3);
UPDATE ftsdocs SET idxed = 1, label = 'Wiki', bx = 'eine Seite über Dateien' WHERE rowid = 3;
INSERT INTO ftsidx(rowid, title, body) SELECT rowid, title, body FROM ftscontent WHERE rowid = 3;
INSERT INTO ftsidx(ftsidx, rowid, title, body) SELECT 'delete', rowid, title, body FROM ftscontent WHERE rowid = 2;
DELETE FROM ftsdocs WHERE rowid = 2;
REPLACE INTO config VALUES ('skin', 'default', 1700000001);
UPDATE ticket SET status = 'Closed' WHERE upper(status) = 'OPEN';

-- [read]
SELECT rowid, title, snippet(ftsidx, 1, '[', ']', '..', 3) FROM ftsidx WHERE ftsidx MATCH 'offnen OR uber' ORDER BY rowid;
SELECT * FROM artifact ORDER BY rid;
SELECT tkt_uuid FROM ticket WHERE upper(status) = 'CLOSED';

-- [migrate]
ALTER TABLE user ADD COLUMN mtime DATE;
ALTER TABLE user ADD COLUMN jx TEXT DEFAULT '{}';

-- [migrate]
CREATE TABLE event_new(
    type TEXT, mtime DATETIME, objid INTEGER PRIMARY KEY, tagid INTEGER REFERENCES tag,
    uid INTEGER REFERENCES user, euser TEXT, ecomment TEXT, user TEXT, comment TEXT, brief TEXT, omtime DATETIME);
INSERT INTO event_new(type, mtime, objid, uid, user, comment) SELECT type, mtime, objid, uid, user, comment FROM event;
DROP TABLE event;
ALTER TABLE event_new RENAME TO event;
CREATE INDEX event_i1 ON event(mtime);
