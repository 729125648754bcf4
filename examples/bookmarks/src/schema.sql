CREATE TABLE users(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE bookmarks(
    id INTEGER PRIMARY KEY,
    user INTEGER NOT NULL REFERENCES users(id),
    url TEXT NOT NULL,
    title TEXT NOT NULL,
    note TEXT NOT NULL,
    added INTEGER NOT NULL DEFAULT (unixepoch()),
    UNIQUE (user, url)
) STRICT;

CREATE TABLE tags(
    bookmark INTEGER NOT NULL REFERENCES bookmarks(id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    PRIMARY KEY (bookmark, tag)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE search USING fts5(title, note, content = bookmarks, content_rowid = id);

CREATE TRIGGER bookmarks_added AFTER INSERT ON bookmarks BEGIN
    INSERT INTO search(rowid, title, note) VALUES (new.id, new.title, new.note);
END;

CREATE TRIGGER bookmarks_removed AFTER DELETE ON bookmarks BEGIN
    INSERT INTO search(search, rowid, title, note) VALUES ('delete', old.id, old.title, old.note);
END;
