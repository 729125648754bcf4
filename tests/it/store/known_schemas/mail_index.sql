-- The index of a mail program, in UTF-16 and small pages: full-text tables of every version, with their own content,
-- content elsewhere, and none.

-- [made]
PRAGMA encoding = 'UTF-16be';
PRAGMA page_size = 512;
CREATE TABLE folders(id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, uidvalidity INTEGER, UNIQUE(name));
CREATE TABLE mails(
    id INTEGER PRIMARY KEY, folder INTEGER NOT NULL REFERENCES folders(id) ON DELETE CASCADE,
    message_id TEXT, subject TEXT, author TEXT, body TEXT, raw BLOB, date INTEGER, flags INTEGER DEFAULT 0);
CREATE UNIQUE INDEX mails_by_message_id ON mails(folder, message_id) WHERE message_id IS NOT NULL;
CREATE INDEX mails_by_domain ON mails(substr(author, instr(author, '@') + 1) COLLATE NOCASE);
CREATE INDEX mails_unread ON mails(date DESC) WHERE flags & 1 = 0;
CREATE VIRTUAL TABLE subjects3 USING fts3(subject, tokenize=porter);
CREATE VIRTUAL TABLE subjects4 USING fts4(subject, author, tokenize=unicode61 "remove_diacritics=1", prefix="1,3");
CREATE VIRTUAL TABLE bodies4 USING fts4(content="mails", subject, body);
CREATE VIRTUAL TABLE hidden4 USING fts4(content="", body);
CREATE VIRTUAL TABLE terms4 USING fts4aux(bodies4);
CREATE VIRTUAL TABLE subjects5 USING fts5(subject, author UNINDEXED, tokenize = 'porter unicode61', columnsize = 0);
CREATE VIRTUAL TABLE bodies5 USING fts5(subject, body, content = 'mails', content_rowid = 'id', detail = column);
CREATE VIRTUAL TABLE hidden5 USING fts5(body, content = '', detail = none);
CREATE VIRTUAL TABLE erasable5 USING fts5(body, content = '', contentless_delete = 1);
CREATE VIRTUAL TABLE terms5 USING fts5vocab(bodies5, 'row');
CREATE TRIGGER mails_inserted AFTER INSERT ON mails BEGIN
    INSERT INTO subjects3(docid, subject) VALUES (new.id, new.subject);
    INSERT INTO subjects4(docid, subject, author) VALUES (new.id, new.subject, new.author);
    INSERT INTO bodies4(docid, subject, body) VALUES (new.id, new.subject, new.body);
    INSERT INTO hidden4(docid, body) VALUES (new.id, new.body);
    INSERT INTO subjects5(rowid, subject, author) VALUES (new.id, new.subject, new.author);
    INSERT INTO bodies5(rowid, subject, body) VALUES (new.id, new.subject, new.body);
    INSERT INTO hidden5(rowid, body) VALUES (new.id, new.body);
    INSERT INTO erasable5(rowid, body) VALUES (new.id, new.body);
END;
CREATE TRIGGER mails_before_update BEFORE UPDATE ON mails BEGIN
    DELETE FROM bodies4 WHERE docid = old.id;
END;
CREATE TRIGGER mails_updated AFTER UPDATE ON mails BEGIN
    INSERT INTO bodies4(docid, subject, body) VALUES (new.id, new.subject, new.body);
    UPDATE subjects3 SET subject = new.subject WHERE docid = old.id;
    UPDATE subjects4 SET subject = new.subject, author = new.author WHERE docid = old.id;
    UPDATE subjects5 SET subject = new.subject, author = new.author WHERE rowid = old.id;
    INSERT INTO bodies5(bodies5, rowid, subject, body) VALUES ('delete', old.id, old.subject, old.body);
    INSERT INTO bodies5(rowid, subject, body) VALUES (new.id, new.subject, new.body);
    INSERT INTO hidden5(hidden5, rowid, body) VALUES ('delete', old.id, old.body);
    INSERT INTO hidden5(rowid, body) VALUES (new.id, new.body);
    REPLACE INTO erasable5(rowid, body) VALUES (new.id, new.body);
END;
CREATE TRIGGER mails_before_delete BEFORE DELETE ON mails BEGIN
    DELETE FROM subjects3 WHERE docid = old.id;
    DELETE FROM subjects4 WHERE docid = old.id;
    DELETE FROM bodies4 WHERE docid = old.id;
    DELETE FROM subjects5 WHERE rowid = old.id;
    INSERT INTO bodies5(bodies5, rowid, subject, body) VALUES ('delete', old.id, old.subject, old.body);
    INSERT INTO hidden5(hidden5, rowid, body) VALUES ('delete', old.id, old.body);
    DELETE FROM erasable5 WHERE rowid = old.id;
END;
INSERT INTO folders VALUES (1, 'INBOX', 1), (2, 'Entwürfe', NULL), (3, '受信箱', -1);
INSERT INTO mails VALUES (1, 1, '<1@example.org>', 'Connected services', 'Ada <ada@Example.org>', 'The services were connecting.', x'0d0a', 1700000000, 0),
    (2, 1, NULL, 'Grüße', NULL, 'Viele Grüße aus Zürich', NULL, -1, 1), (3, 3, '<3@例え.jp>', NULL, '花子@例え.jp', '本文 です', x'', NULL, NULL),
    (4, 2, NULL, '', '', NULL, zeroblob(3000), 0, 0);
INSERT INTO mails(id, folder, subject, author, body)
    WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 250)
    SELECT i, 1, 'Report ' || i, 'cron@host' || i % 7, 'disk usage of volume ' || i || ' is ' || i * 37 % 100 || ' percent' FROM n;

-- [write]
INSERT INTO mails VALUES (5, 1, '<5@example.org>', 'Connections', 'bob@example.ORG', 'a new connection', x'ff', 1700000001, 0);
UPDATE mails SET subject = 'Grüezi', body = 'Viele Grüsse' WHERE id = 2;
DELETE FROM mails WHERE id BETWEEN 100 AND 120;
DELETE FROM folders WHERE name = 'entwürfe';
INSERT INTO subjects4(subjects4) VALUES ('optimize');
INSERT INTO subjects5(subjects5) VALUES ('optimize');
INSERT INTO bodies5(bodies5, rank) VALUES ('merge', 50);

-- [read]
SELECT docid, subject FROM subjects3 WHERE subjects3 MATCH 'connecting' ORDER BY docid;
SELECT docid, snippet(subjects4) FROM subjects4 WHERE subjects4 MATCH 'gruez*' ORDER BY docid;
SELECT docid, subject FROM bodies4 WHERE bodies4 MATCH 'body:grüsse' ORDER BY docid;
SELECT count(*) FROM hidden4 WHERE hidden4 MATCH 'percent';
SELECT count(*) FROM subjects3;
SELECT rowid FROM subjects5 WHERE subjects5 MATCH 'connect' ORDER BY rowid;
SELECT rowid, subject FROM bodies5 WHERE bodies5 MATCH 'grusse OR 本文' ORDER BY rowid;
SELECT count(*) FROM hidden5('usage');
SELECT count(*) FROM erasable5('volume AND 37');
SELECT term, doc FROM terms5 WHERE term BETWEEN 'u' AND 'z' ORDER BY term;
SELECT id FROM mails WHERE substr(author, instr(author, '@') + 1) = 'example.org' COLLATE NOCASE ORDER BY id;

-- [migrate]
ALTER TABLE mails ADD COLUMN thread INTEGER REFERENCES mails(id);
ALTER TABLE folders ADD COLUMN special_use TEXT CHECK (special_use IN ('sent', 'trash'));

-- [migrate]
CREATE TABLE folders_new(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, uidvalidity INTEGER NOT NULL DEFAULT 0,
    special_use TEXT) STRICT;
INSERT INTO folders_new SELECT id, name, ifnull(uidvalidity, 0), special_use FROM folders;
DROP TABLE folders;
ALTER TABLE folders_new RENAME TO folders;
DROP TABLE terms4;
