-- Vaultwarden, whose schema Diesel migrates.

-- [made]
PRAGMA journal_mode = WAL;
CREATE TABLE __diesel_schema_migrations (
    version VARCHAR(50) PRIMARY KEY NOT NULL, run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE users (
    uuid TEXT NOT NULL PRIMARY KEY, created_at DATETIME NOT NULL, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    password_hash BLOB NOT NULL, salt BLOB NOT NULL, password_iterations INTEGER NOT NULL, akey TEXT NOT NULL,
    private_key TEXT, equivalent_domains TEXT NOT NULL DEFAULT '[]', enabled BOOLEAN NOT NULL DEFAULT 1);
CREATE TABLE organizations (uuid VARCHAR(40) NOT NULL PRIMARY KEY, name TEXT NOT NULL, billing_email TEXT NOT NULL);
CREATE TABLE ciphers (
    uuid TEXT NOT NULL PRIMARY KEY, created_at DATETIME NOT NULL, user_uuid TEXT REFERENCES users(uuid),
    organization_uuid TEXT REFERENCES organizations(uuid), atype INTEGER NOT NULL, name TEXT NOT NULL, notes TEXT,
    data TEXT NOT NULL, password_history TEXT, deleted_at DATETIME, reprompt INTEGER);
CREATE TABLE attachments (
    id TEXT NOT NULL PRIMARY KEY, cipher_uuid TEXT NOT NULL REFERENCES ciphers(uuid), file_name TEXT NOT NULL,
    file_size BIGINT NOT NULL, akey TEXT);
CREATE TABLE folders (
    uuid TEXT NOT NULL PRIMARY KEY, user_uuid TEXT NOT NULL REFERENCES users(uuid), name TEXT NOT NULL);
CREATE TABLE folders_ciphers (
    cipher_uuid TEXT NOT NULL REFERENCES ciphers(uuid), folder_uuid TEXT NOT NULL REFERENCES folders(uuid),
    PRIMARY KEY (cipher_uuid, folder_uuid));
CREATE TABLE favorites (
    user_uuid TEXT NOT NULL REFERENCES users(uuid), cipher_uuid TEXT NOT NULL REFERENCES ciphers(uuid),
    PRIMARY KEY (user_uuid, cipher_uuid)) WITHOUT ROWID;
CREATE TABLE devices (
    uuid TEXT NOT NULL, user_uuid TEXT NOT NULL, name TEXT NOT NULL, atype INTEGER NOT NULL, push_token TEXT,
    refresh_token TEXT NOT NULL, PRIMARY KEY (uuid, user_uuid), FOREIGN KEY (user_uuid) REFERENCES users(uuid));
INSERT INTO __diesel_schema_migrations VALUES ('20180114171611', '2024-01-01 00:00:00'), ('20180217205753', '2024-01-01 00:00:01');
INSERT INTO users VALUES ('u1', '2024-01-01 00:00:00.123456789', 'ada@example.org', 'Ada', x'00ff00ff', x'', 600000, '2.a|b|c', NULL, '[]', 1), ('u2', '2024-01-02', 'zoë@example.org', 'Zoë 🔑', x'01', x'02', 1, '', '', '[[1]]', 0);
INSERT INTO organizations VALUES ('o1', 'Müller & Söhne', 'm@example.org');
INSERT INTO ciphers(uuid, created_at, user_uuid, organization_uuid, atype, name, data) VALUES ('c1', '2024-01-01', 'u1', NULL, 1, '2.x|y|z', '{"Uris":[]}'), ('c2', '2024-01-01', NULL, 'o1', 2, '', '{}');
INSERT INTO attachments VALUES ('a1', 'c1', 'n', 9007199254740993, NULL);
INSERT INTO folders VALUES ('f1', 'u1', 'Ordner'), ('f2', 'u2', '');
INSERT INTO folders_ciphers VALUES ('c1', 'f1');
INSERT INTO favorites VALUES ('u1', 'c1'), ('u1', 'c2');
INSERT INTO devices VALUES ('d1', 'u1', 'firefox', 10, NULL, 'r');

-- [write]
INSERT INTO ciphers(uuid, created_at, user_uuid, atype, name, data) VALUES ('c3', '2024-01-03', 'u2', 1, 'ß', '{}');
REPLACE INTO folders_ciphers VALUES ('c3', 'f2'), ('c1', 'f1');
UPDATE users SET salt = x'0a', enabled = 1 WHERE uuid = 'u2';
DELETE FROM favorites WHERE cipher_uuid = 'c2';
DELETE FROM ciphers WHERE uuid = 'c2';
INSERT INTO devices VALUES ('d1', 'u1', 'chrome', 9, 'p', 's')
    ON CONFLICT (uuid, user_uuid) DO UPDATE SET name = excluded.name, push_token = excluded.push_token;

-- [read]
SELECT c.uuid, f.name FROM ciphers AS c LEFT JOIN folders_ciphers AS l ON l.cipher_uuid = c.uuid
    LEFT JOIN folders AS f ON f.uuid = l.folder_uuid ORDER BY c.uuid;
SELECT hex(password_hash), typeof(salt) FROM users ORDER BY uuid;

-- [migrate]
ALTER TABLE users ADD COLUMN avatar_color TEXT;
ALTER TABLE ciphers ADD COLUMN key TEXT;

-- [migrate]
CREATE TABLE devices_new (
    uuid TEXT NOT NULL, user_uuid TEXT NOT NULL REFERENCES users(uuid) ON DELETE CASCADE, name TEXT NOT NULL,
    atype INTEGER NOT NULL, push_uuid TEXT, push_token TEXT, refresh_token TEXT NOT NULL UNIQUE,
    PRIMARY KEY (uuid, user_uuid));
INSERT INTO devices_new SELECT uuid, user_uuid, name, atype, NULL, push_token, refresh_token FROM devices;
DROP TABLE devices;
ALTER TABLE devices_new RENAME TO devices;
