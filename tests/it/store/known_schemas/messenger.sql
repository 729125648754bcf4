-- The messages of an encrypted messenger: JSON with generated columns, and a full-text index that triggers keep.

-- [made]
PRAGMA page_size = 16384;
PRAGMA journal_mode = WAL;
PRAGMA user_version = 1080;
CREATE TABLE conversations(
    id TEXT PRIMARY KEY ASC, json TEXT, active_at INTEGER, type TEXT, members TEXT, name TEXT, profileKey BLOB,
    expireTimerVersion INTEGER NOT NULL DEFAULT 1);
CREATE TABLE messages(
    rowid INTEGER PRIMARY KEY ASC AUTOINCREMENT, id TEXT UNIQUE, json TEXT, readStatus INTEGER, expires_at INTEGER,
    sent_at INTEGER, conversationId TEXT REFERENCES conversations(id) ON DELETE CASCADE, source TEXT,
    hasAttachments INTEGER, isViewOnce INTEGER, body TEXT, storyId STRING, isStory INTEGER
        GENERATED ALWAYS AS (type IS 'story'),
    type TEXT, seenStatus NUMBER DEFAULT 0, expireTimer INTEGER, expirationStartTimestamp INTEGER,
    expiresAt INT GENERATED ALWAYS AS (ifnull(expirationStartTimestamp + (expireTimer * 1000), 9007199254740991)),
    isErased INTEGER, mentions TEXT AS (json -> '$.mentions') STORED, editedAt TEXT AS (json ->> '$.edited.at'));
CREATE TABLE reactions(
    conversationId STRING, emoji STRING, fromId STRING,
    messageId STRING REFERENCES messages(id) ON DELETE CASCADE, timestamp NUMBER);
CREATE TABLE jobs(id TEXT PRIMARY KEY, queueType TEXT STRING NOT NULL, timestamp INTEGER NOT NULL, data STRING TEXT);
CREATE TABLE sessions(ourServiceId TEXT NOT NULL, device INTEGER, record BLOB NOT NULL, PRIMARY KEY (ourServiceId, device))
    WITHOUT ROWID;
CREATE VIRTUAL TABLE messages_fts USING fts5(body, content = messages, content_rowid = rowid, prefix = '2 3',
    tokenize = 'unicode61 remove_diacritics 2 tokenchars ''@''');
CREATE VIRTUAL TABLE names_fts USING fts5(name, other UNINDEXED, tokenize = 'trigram');
CREATE INDEX messages_unread ON messages(conversationId, sent_at) WHERE readStatus IS NOT NULL;
CREATE INDEX messages_expires ON messages(expiresAt) WHERE isErased IS NOT 1;
CREATE INDEX messages_story ON messages(isStory, sent_at);
CREATE INDEX messages_edited ON messages(editedAt);
CREATE INDEX messages_quoted ON messages(json_extract(json, '$.quote.id'), (lower(source) || type) DESC)
    WHERE json_extract(json, '$.quote.id') IS NOT NULL;
CREATE INDEX reactions_message ON reactions(messageId, fromId, timestamp DESC);
CREATE INDEX jobs_timestamp ON jobs(timestamp);
CREATE TRIGGER messages_on_insert AFTER INSERT ON messages
    WHEN new.isViewOnce IS NOT 1 AND new.storyId IS NULL AND new.body IS NOT NULL
BEGIN
    INSERT INTO messages_fts(rowid, body) VALUES (new.rowid, new.body);
END;
CREATE TRIGGER messages_on_update AFTER UPDATE OF body ON messages WHEN old.body IS NOT new.body
BEGIN
    INSERT INTO messages_fts(messages_fts, rowid, body) SELECT 'delete', old.rowid, old.body
        WHERE old.isViewOnce IS NOT 1 AND old.storyId IS NULL AND old.body IS NOT NULL;
    INSERT INTO messages_fts(rowid, body) SELECT new.rowid, new.body
        WHERE new.isViewOnce IS NOT 1 AND new.storyId IS NULL AND new.body IS NOT NULL;
END;
CREATE TRIGGER messages_on_delete AFTER DELETE ON messages
    WHEN old.isViewOnce IS NOT 1 AND old.storyId IS NULL AND old.body IS NOT NULL
BEGIN
    INSERT INTO messages_fts(messages_fts, rowid, body) VALUES ('delete', old.rowid, old.body);
END;
CREATE TRIGGER conversations_named AFTER UPDATE OF name ON conversations
BEGIN
    DELETE FROM names_fts WHERE other = old.id;
    INSERT INTO names_fts(name, other) VALUES (new.name, new.id);
END;
INSERT INTO conversations(id, json, active_at, type, members, name, profileKey) VALUES ('c1', '{"id":"c1"}', 1700000000000, 'private', NULL, 'Ada 🦊', x'0011'),
    ('c2', '{}', NULL, 'group', 'a b c', NULL, zeroblob(32)), ('c3', NULL, -1, NULL, NULL, '', NULL);
INSERT INTO names_fts(name, other) SELECT name, id FROM conversations WHERE name <> '';
INSERT INTO messages(id, json, readStatus, sent_at, conversationId, source, isViewOnce, body, storyId, type, expireTimer, expirationStartTimestamp)
    VALUES ('m1', '{"mentions":[1]}', NULL, 1, 'c1', '+49', 0, 'Hallo Welt @ada', NULL, 'outgoing', NULL, NULL),
        ('m2', '{"quote":{"id":1},"edited":{"at":"2024"}}', 1, 2, 'c1', 'X', 0, 'Grüße aus Köln 🎉', NULL, 'incoming', 60, 1700000000000),
        ('m3', NULL, 1, 3, 'c2', NULL, 1, 'einmal', NULL, 'incoming', NULL, NULL),
        ('m4', '{}', NULL, 4, 'c2', NULL, NULL, NULL, 's', 'story', NULL, NULL);
INSERT INTO messages(id, json, sent_at, conversationId, body, type)
    WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
    SELECT 'n' || i, json_object('mentions', json_array(i)), i, 'c2', 'Nachricht Nummer ' || i, 'incoming' FROM n;
INSERT INTO reactions VALUES ('c1', '👍', 'c3', 'm1', 1.5), ('c1', NULL, NULL, 'm2', NULL);
INSERT INTO jobs VALUES ('j', 'send', 0, CAST(x'c328' AS TEXT));
INSERT INTO sessions VALUES ('a', 1, x'ff'), ('a', 2, x'');

-- [write]
INSERT INTO messages(id, json, sent_at, conversationId, body, type) VALUES ('m5', '{"edited":{"at":"2025"}}', 5, 'c1', 'neue Grüße', 'outgoing');
UPDATE messages SET body = 'Hallo 世界' WHERE id = 'm1';
UPDATE messages SET body = NULL, isErased = 1 WHERE id = 'n300';
DELETE FROM messages WHERE sent_at BETWEEN 200 AND 250;
UPDATE conversations SET name = 'Grace Hopper' WHERE id = 'c2';
DELETE FROM conversations WHERE id = 'c3';

-- [read]
SELECT m.id, highlight(messages_fts, 0, '<', '>') FROM messages_fts AS f JOIN messages AS m ON m.rowid = f.rowid
    WHERE messages_fts MATCH 'gruße OR "世界"' ORDER BY rank, m.id;
SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'nach*';
SELECT other FROM names_fts WHERE name MATCH 'Hop';
SELECT id, isStory, expiresAt, mentions, editedAt FROM messages WHERE editedAt >= '2024' ORDER BY editedAt;
SELECT id FROM messages WHERE json_extract(json, '$.quote.id') = 1;
SELECT id FROM messages WHERE isStory = 1 ORDER BY sent_at;

-- [migrate]
ALTER TABLE conversations ADD COLUMN e164 TEXT;
ALTER TABLE messages ADD COLUMN isPinned INTEGER GENERATED ALWAYS AS (json ->> '$.pinned' IS 1);
CREATE INDEX messages_pinned ON messages(conversationId) WHERE isPinned = 1;

-- [migrate]
CREATE TABLE reactions_new(
    conversationId TEXT, emoji TEXT, fromId TEXT, messageId TEXT REFERENCES messages(id) ON DELETE CASCADE,
    timestamp REAL) STRICT;
INSERT INTO reactions_new SELECT * FROM reactions;
DROP TABLE reactions;
ALTER TABLE reactions_new RENAME TO reactions;
CREATE INDEX reactions_message ON reactions(messageId, fromId, timestamp DESC);
INSERT INTO messages_fts(messages_fts) VALUES ('rebuild');
