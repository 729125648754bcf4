-- The library of Calibre. Its triggers and views call functions of the program.

-- [made]
PRAGMA page_size = 1024;
PRAGMA application_id = 0;
PRAGMA user_version = 26;
CREATE TABLE books(
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL DEFAULT 'Unknown' COLLATE NOCASE,
    sort TEXT COLLATE NOCASE, timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    pubdate TIMESTAMP DEFAULT CURRENT_TIMESTAMP, series_index REAL NOT NULL DEFAULT 1.0,
    author_sort TEXT COLLATE NOCASE, isbn TEXT DEFAULT "" COLLATE NOCASE, path TEXT NOT NULL DEFAULT "",
    flags INTEGER NOT NULL DEFAULT 1, uuid TEXT, has_cover BOOL DEFAULT 0,
    last_modified TIMESTAMP NOT NULL DEFAULT "2000-01-01 00:00:00+00:00");
CREATE TABLE authors(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, sort TEXT COLLATE NOCASE,
    link TEXT NOT NULL DEFAULT "", UNIQUE(name));
CREATE TABLE books_authors_link(
    id INTEGER PRIMARY KEY, book INTEGER NOT NULL, author INTEGER NOT NULL, UNIQUE(book, author));
CREATE TABLE tags(id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, UNIQUE (name));
CREATE TABLE books_tags_link(
    id INTEGER PRIMARY KEY, book INTEGER NOT NULL, tag INTEGER NOT NULL, UNIQUE(book, tag));
CREATE TABLE ratings(id INTEGER PRIMARY KEY, rating INTEGER CHECK (rating > -1 AND rating < 11), UNIQUE (rating));
CREATE TABLE comments(id INTEGER PRIMARY KEY, book INTEGER NOT NULL, text TEXT NOT NULL COLLATE NOCASE, UNIQUE(book));
CREATE TABLE data(
    id INTEGER PRIMARY KEY, book INTEGER NOT NULL, format TEXT NOT NULL COLLATE NOCASE,
    uncompressed_size INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE(book, format));
CREATE TABLE conversion_options(
    id INTEGER PRIMARY KEY, format TEXT NOT NULL COLLATE NOCASE, book INTEGER, data BLOB NOT NULL,
    UNIQUE(format, book));
CREATE TABLE preferences(id INTEGER PRIMARY KEY, key TEXT NOT NULL, val TEXT NOT NULL, UNIQUE(key));
CREATE INDEX authors_idx ON books(author_sort COLLATE NOCASE);
CREATE INDEX books_idx ON books(sort COLLATE NOCASE);
CREATE INDEX books_authors_link_aidx ON books_authors_link(author);
CREATE INDEX books_authors_link_bidx ON books_authors_link(book);
CREATE INDEX books_tags_link_aidx ON books_tags_link(tag);
CREATE TRIGGER books_insert_trg AFTER INSERT ON books BEGIN
    UPDATE books SET sort = title_sort(NEW.title), uuid = uuid4(NEW.id) WHERE id = NEW.id;
END;
CREATE TRIGGER books_update_trg AFTER UPDATE ON books BEGIN
    UPDATE books SET sort = title_sort(NEW.title) WHERE id = NEW.id AND OLD.title <> NEW.title;
END;
CREATE TRIGGER books_delete_trg AFTER DELETE ON books BEGIN
    DELETE FROM books_authors_link WHERE book = OLD.id;
    DELETE FROM books_tags_link WHERE book = OLD.id;
    DELETE FROM data WHERE book = OLD.id;
    DELETE FROM comments WHERE book = OLD.id;
END;
CREATE TRIGGER fkc_insert_books_authors BEFORE INSERT ON books_authors_link BEGIN
    SELECT CASE
        WHEN (SELECT id FROM books WHERE id = NEW.book) IS NULL
        THEN RAISE(ABORT, 'Foreign key violation: book not in books')
        WHEN (SELECT id FROM authors WHERE id = NEW.author) IS NULL
        THEN RAISE(ABORT, 'Foreign key violation: author not in authors')
    END;
END;
CREATE TRIGGER fkc_delete_on_authors BEFORE DELETE ON authors BEGIN
    SELECT CASE
        WHEN (SELECT count(id) FROM books_authors_link WHERE author = OLD.id) > 0
        THEN RAISE(ABORT, 'Foreign key violation: authors is still referenced')
    END;
END;
CREATE VIEW meta AS
    SELECT id, title, (SELECT sortconcat(l.id, name) FROM books_authors_link AS l
            JOIN authors AS a ON l.author = a.id WHERE l.book = books.id) AS authors,
        (SELECT concat(name) FROM tags WHERE id IN (SELECT tag FROM books_tags_link WHERE book = books.id)) AS tags,
        (SELECT max(uncompressed_size) FROM data WHERE book = books.id) AS size, sort, uuid
    FROM books;
CREATE VIEW tag_browser_authors AS
    SELECT id, name, (SELECT count(id) FROM books_authors_link WHERE author = authors.id) AS count, sort FROM authors;
INSERT INTO books(id, title, timestamp, pubdate, author_sort, path, flags)
    VALUES (1, 'The Æneid', '2024-01-01', '0101-01-01', 'Vergil', 'Vergil/The Aeneid (1)', 1),
        (2, 'A Tale of 二 Cities', '2024-01-02', NULL, NULL, '', 2), (3, 'Emma', NULL, NULL, 'Austen, Jane', 'x', -1);
INSERT INTO authors(id, name, sort) VALUES (1, 'Vergil', 'Vergil'), (2, 'Jane Austen', 'Austen, Jane'), (3, 'Ø', NULL);
INSERT INTO books_authors_link(book, author) VALUES (1, 1), (2, 3), (2, 2), (3, 2);
INSERT INTO tags(name) VALUES ('Fiction'), ('Épopée');
INSERT INTO books_tags_link(book, tag) VALUES (1, 1), (1, 2), (3, 1);
INSERT INTO ratings(rating) VALUES (0), (10), (NULL);
INSERT INTO comments(book, text) VALUES (1, '<p>Arma virumque cano</p>');
INSERT INTO data(book, format, uncompressed_size, name) VALUES (1, 'EPUB', 200000, 'a'), (1, 'PDF', 9000000000, 'a');
INSERT INTO conversion_options(format, book, data) VALUES ('PIPE', 1, x'80024b012e'), ('PIPE', NULL, x'');

-- [write]
INSERT INTO books(title, timestamp, pubdate) VALUES ('An Essay', '2024-01-03', '2024-01-03');
UPDATE books SET title = 'The Emma' WHERE id = 3;
INSERT INTO books_authors_link(book, author) SELECT max(id), 3 FROM books;
DELETE FROM books WHERE id = 1;
DELETE FROM authors WHERE name = 'VERGIL';

-- [read]
SELECT title, authors, sort FROM meta ORDER BY sort;
SELECT * FROM tag_browser_authors ORDER BY name;
SELECT id FROM books WHERE author_sort = 'austen, jane' COLLATE NOCASE;

-- [migrate]
ALTER TABLE tags ADD COLUMN link TEXT NOT NULL DEFAULT '';
ALTER TABLE books ADD COLUMN pages INTEGER CHECK (pages > 0);
PRAGMA user_version = 27;

-- [migrate]
PRAGMA legacy_alter_table = ON;
CREATE TABLE new_data(
    id INTEGER PRIMARY KEY, book INTEGER NOT NULL REFERENCES books(id) ON DELETE CASCADE,
    format TEXT NOT NULL COLLATE NOCASE, uncompressed_size INTEGER NOT NULL, name TEXT NOT NULL,
    UNIQUE(book, format));
INSERT INTO new_data SELECT * FROM data;
DROP TABLE data;
ALTER TABLE new_data RENAME TO data;
CREATE INDEX data_idx ON data(book);
