-- The history of Chromium. It numbers its schema in a table of its own.

-- [made]
CREATE TABLE meta(key LONGVARCHAR NOT NULL UNIQUE PRIMARY KEY, value LONGVARCHAR);
CREATE TABLE urls(
    id INTEGER PRIMARY KEY AUTOINCREMENT, url LONGVARCHAR, title LONGVARCHAR, visit_count INTEGER DEFAULT 0 NOT NULL,
    typed_count INTEGER DEFAULT 0 NOT NULL, last_visit_time INTEGER NOT NULL, hidden INTEGER DEFAULT 0 NOT NULL);
CREATE TABLE visits(
    id INTEGER PRIMARY KEY AUTOINCREMENT, url INTEGER NOT NULL, visit_time INTEGER NOT NULL, from_visit INTEGER,
    external_referrer_url TEXT, transition INTEGER DEFAULT 0 NOT NULL, segment_id INTEGER,
    visit_duration INTEGER DEFAULT 0 NOT NULL, incremented_omnibox_typed_score BOOLEAN DEFAULT FALSE NOT NULL,
    opener_visit INTEGER, originator_cache_guid TEXT, is_known_to_sync BOOLEAN DEFAULT FALSE NOT NULL);
CREATE TABLE visit_source(id INTEGER PRIMARY KEY, source INTEGER NOT NULL);
CREATE TABLE keyword_search_terms(
    keyword_id INTEGER NOT NULL, url_id INTEGER NOT NULL, term LONGVARCHAR NOT NULL,
    normalized_term LONGVARCHAR NOT NULL);
CREATE TABLE downloads(
    id INTEGER PRIMARY KEY, guid VARCHAR NOT NULL, current_path LONGVARCHAR NOT NULL,
    start_time INTEGER NOT NULL, received_bytes INTEGER NOT NULL, hash BLOB NOT NULL, state INTEGER NOT NULL,
    opened INTEGER NOT NULL, mime_type VARCHAR(255) NOT NULL);
CREATE TABLE downloads_url_chains(
    id INTEGER NOT NULL, chain_index INTEGER NOT NULL, url LONGVARCHAR NOT NULL, PRIMARY KEY (id, chain_index));
CREATE TABLE segments(id INTEGER PRIMARY KEY, name VARCHAR, url_id INTEGER NON NULL);
CREATE INDEX urls_url_index ON urls(url);
CREATE INDEX visits_url_index ON visits(url);
CREATE INDEX visits_time_index ON visits(visit_time);
CREATE INDEX visits_originator_id_index ON visits(originator_cache_guid, id)
    WHERE originator_cache_guid IS NOT NULL AND originator_cache_guid <> '';
CREATE INDEX keyword_search_terms_index1 ON keyword_search_terms(keyword_id, normalized_term);
INSERT INTO meta VALUES ('mmap_status', '-1'), ('version', '70'), ('last_compatible_version', '16');
INSERT INTO urls(url, title, visit_count, last_visit_time) VALUES ('https://example.org/', 'Example', 2, 13350000000000000),
    ('https://example.org/ü', '', 1, 13350000000000001), ('file:///tmp/%FF', CAST(x'ff00fe' AS TEXT), 1, 0),
    ('chrome://history', NULL, 9, 9223372036854775807);
INSERT INTO visits(url, visit_time, from_visit, originator_cache_guid) VALUES (1, 13350000000000000, 0, NULL),
    (1, 13350000000000001, 1, ''), (2, 13350000000000001, 2, 'another device'), (3, 0, NULL, 'another device');
INSERT INTO visit_source VALUES (3, 0);
INSERT INTO keyword_search_terms VALUES (2, 2, 'Straße', 'straße'), (2, 1, 'EXAMPLE', 'example');
INSERT INTO downloads VALUES (1, 'g', '/tmp/a', 1, 1024, x'e3b0c44298fc1c14', 1, 0, 'text/plain'), (2, 'h', '', 0, 0, x'', 0, 0, '');
INSERT INTO downloads_url_chains VALUES (1, 0, 'https://example.org/a'), (1, 1, 'https://example.org/b');
INSERT INTO segments VALUES (1, 'http://example.org/', 1);
DELETE FROM urls WHERE id = 4;

-- [write]
INSERT INTO urls(url, title, last_visit_time) VALUES ('https://new.example/', '新', 13350000000000009);
INSERT INTO visits(url, visit_time, opener_visit) SELECT id, last_visit_time, NULL FROM urls WHERE title = '新';
UPDATE urls SET visit_count = visit_count + 1 WHERE id IN (SELECT url FROM visits WHERE visit_time > 13350000000000005);
INSERT OR REPLACE INTO meta VALUES ('version', '71');
DELETE FROM keyword_search_terms WHERE normalized_term LIKE 'EX%';

-- [read]
SELECT u.url, v.visit_time FROM visits AS v JOIN urls AS u ON u.id = v.url ORDER BY v.visit_time DESC, v.id LIMIT 3;
SELECT id FROM visits WHERE originator_cache_guid = 'another device' AND originator_cache_guid IS NOT NULL
    AND originator_cache_guid <> '' ORDER BY id;
SELECT seq FROM sqlite_sequence ORDER BY name;

-- [migrate]
ALTER TABLE visits ADD COLUMN consider_for_ntp_most_visited BOOLEAN DEFAULT FALSE NOT NULL;
ALTER TABLE visits ADD COLUMN app_id TEXT;
UPDATE meta SET value = '72' WHERE key = 'version';

-- [migrate]
CREATE TABLE urls_tmp(
    id INTEGER PRIMARY KEY AUTOINCREMENT, url LONGVARCHAR, title LONGVARCHAR, visit_count INTEGER DEFAULT 0 NOT NULL,
    typed_count INTEGER DEFAULT 0 NOT NULL, last_visit_time INTEGER NOT NULL, hidden INTEGER DEFAULT 0 NOT NULL,
    favicon_id INTEGER DEFAULT 0 NOT NULL);
INSERT INTO urls_tmp SELECT id, url, title, visit_count, typed_count, last_visit_time, hidden, 0 FROM urls;
DROP TABLE urls;
ALTER TABLE urls_tmp RENAME TO urls;
CREATE INDEX urls_url_index ON urls(url);
