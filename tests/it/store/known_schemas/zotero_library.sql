-- The library of Zotero: values without a type, and foreign keys kept by triggers.

-- [made]
CREATE TABLE version(schema TEXT PRIMARY KEY, version INT NOT NULL);
CREATE INDEX schema ON version(schema);
CREATE TABLE settings(setting TEXT, key TEXT, value, PRIMARY KEY (setting, key));
CREATE TABLE libraries(libraryID INTEGER PRIMARY KEY, type TEXT NOT NULL, editable INT NOT NULL, version INT NOT NULL DEFAULT 0);
CREATE TABLE itemTypes(itemTypeID INTEGER PRIMARY KEY, typeName TEXT, templateItemTypeID INT, display INT DEFAULT 1);
CREATE TABLE fields(fieldID INTEGER PRIMARY KEY, fieldName TEXT, fieldFormatID INT);
CREATE TABLE items(
    itemID INTEGER PRIMARY KEY, itemTypeID INT NOT NULL, dateAdded TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    libraryID INT NOT NULL, key TEXT NOT NULL, version INT NOT NULL DEFAULT 0, synced INT NOT NULL DEFAULT 0,
    UNIQUE (libraryID, key), FOREIGN KEY (libraryID) REFERENCES libraries(libraryID) ON DELETE CASCADE);
CREATE TABLE itemDataValues(valueID INTEGER PRIMARY KEY, value UNIQUE);
CREATE TABLE itemData(
    itemID INT, fieldID INT, valueID, PRIMARY KEY (itemID, fieldID),
    FOREIGN KEY (itemID) REFERENCES items(itemID) ON DELETE CASCADE, FOREIGN KEY (fieldID) REFERENCES fields(fieldID),
    FOREIGN KEY (valueID) REFERENCES itemDataValues(valueID));
CREATE TABLE itemNotes(
    itemID INTEGER PRIMARY KEY, parentItemID INT, note TEXT, title TEXT,
    FOREIGN KEY (itemID) REFERENCES items(itemID) ON DELETE CASCADE,
    FOREIGN KEY (parentItemID) REFERENCES items(itemID) ON DELETE CASCADE);
CREATE TABLE creators(
    creatorID INTEGER PRIMARY KEY, firstName TEXT, lastName TEXT, fieldMode INT, UNIQUE (lastName, firstName, fieldMode));
CREATE TABLE itemCreators(
    itemID INT NOT NULL, creatorID INT NOT NULL, orderIndex INT NOT NULL DEFAULT 0,
    PRIMARY KEY (itemID, orderIndex), CHECK (orderIndex >= 0),
    FOREIGN KEY (itemID) REFERENCES items(itemID) ON DELETE CASCADE,
    FOREIGN KEY (creatorID) REFERENCES creators(creatorID) ON DELETE CASCADE);
CREATE TABLE collections(
    collectionID INTEGER PRIMARY KEY, collectionName TEXT NOT NULL, parentCollectionID INT DEFAULT NULL,
    libraryID INT NOT NULL, key TEXT NOT NULL, UNIQUE (libraryID, key),
    FOREIGN KEY (parentCollectionID) REFERENCES collections(collectionID) ON DELETE CASCADE);
CREATE TABLE deletedItems(itemID INTEGER PRIMARY KEY, dateDeleted DEFAULT CURRENT_TIMESTAMP NOT NULL);
CREATE TABLE fulltextWords(wordID INTEGER PRIMARY KEY, word TEXT UNIQUE);
CREATE TABLE syncCache(
    libraryID INT NOT NULL, key TEXT NOT NULL, version INT NOT NULL, data TEXT, PRIMARY KEY (libraryID, key, version));
CREATE INDEX items_synced ON items(synced);
CREATE INDEX itemData_fieldID ON itemData(fieldID);
CREATE INDEX itemData_valueID ON itemData(valueID);
CREATE INDEX itemNotes_parentItemID ON itemNotes(parentItemID);
CREATE TRIGGER fki_collections_parent BEFORE INSERT ON collections WHEN NEW.parentCollectionID IS NOT NULL BEGIN
    SELECT RAISE(ABORT, 'parent collection is in another library')
        WHERE (SELECT libraryID FROM collections WHERE collectionID = NEW.parentCollectionID) IS NOT NEW.libraryID;
END;
CREATE TRIGGER fku_collections_parent BEFORE UPDATE OF parentCollectionID ON collections BEGIN
    SELECT RAISE(ABORT, 'a collection is its own parent') WHERE NEW.parentCollectionID = NEW.collectionID;
END;
CREATE TRIGGER fki_itemNotes BEFORE INSERT ON itemNotes BEGIN
    SELECT CASE WHEN NEW.parentItemID IS NOT NULL AND (SELECT itemTypeID FROM items WHERE itemID = NEW.parentItemID) = 1
        THEN RAISE(ABORT, 'a note has no notes') END;
END;
CREATE TRIGGER item_trashed AFTER INSERT ON deletedItems BEGIN
    UPDATE items SET synced = 0, version = version + 1 WHERE itemID = NEW.itemID;
END;
INSERT INTO version VALUES ('userdata', 120), ('triggers', 18);
INSERT INTO settings VALUES ('account', 'userID', 12345), ('account', 'username', 'ada'), ('db', 'x', x'00'), ('db', NULL, 1.5);
INSERT INTO libraries VALUES (1, 'user', 1, 0), (2, 'group', 0, 99);
INSERT INTO itemTypes VALUES (1, 'note', NULL, 0), (2, 'book', NULL, 2), (3, 'journalArticle', 2, 2);
INSERT INTO fields VALUES (1, 'title', NULL), (14, 'date', NULL), (26, 'volume', 4);
INSERT INTO items VALUES (1, 2, '2024-01-01 00:00:00', 1, 'ABCD2345', 3, 1), (2, 1, '2024-01-02', 1, 'EFGH', 0, 0), (3, 3, '2024-01-03', 2, 'ABCD2345', 0, 1);
INSERT INTO itemDataValues VALUES (1, 'Über die Größe'), (2, '2024-00-00 2024'), (3, 12), (4, '12'), (5, 12.5), (6, x'3132'), (7, NULL);
INSERT INTO itemData VALUES (1, 1, 1), (1, 14, 2), (3, 26, 3), (3, 1, 4);
INSERT INTO itemNotes VALUES (2, 1, '<p>Σημείωση</p>', NULL);
INSERT INTO creators VALUES (1, 'Ada', 'Lovelace', 0), (2, '', 'Vereinte Nationen', 1), (3, NULL, NULL, NULL);
INSERT INTO itemCreators VALUES (1, 1, 0), (1, 2, 1);
INSERT INTO collections VALUES (1, 'Alles', NULL, 1, 'AA'), (2, 'Ein Teil', 1, 1, 'BB');
INSERT INTO fulltextWords(word) VALUES ('größe'), ('и'), ('');
INSERT INTO syncCache VALUES (1, 'AA', 1, '{"a": 1}'), (1, 'AA', 2, NULL);

-- [write]
INSERT INTO items VALUES (4, 1, '2024-02-01', 1, 'NOTE', 0, 0);
INSERT INTO itemNotes VALUES (4, 3, '', 'leer');
INSERT INTO deletedItems VALUES (1, '2024-02-02');
UPDATE collections SET parentCollectionID = NULL WHERE collectionID = 2;
INSERT OR IGNORE INTO itemDataValues(value) VALUES (12), ('zwölf');
DELETE FROM items WHERE itemID = 3;
DELETE FROM itemDataValues WHERE valueID NOT IN (SELECT valueID FROM itemData);

-- [read]
SELECT f.fieldName, v.value, typeof(v.value) FROM itemData AS d JOIN fields AS f USING (fieldID)
    JOIN itemDataValues AS v USING (valueID) ORDER BY d.itemID, f.fieldID;
SELECT itemID, version, synced FROM items ORDER BY itemID;
SELECT count(*) FROM itemNotes;

-- [migrate]
ALTER TABLE itemNotes ADD COLUMN sourceNote INT;
ALTER TABLE items ADD COLUMN clientDateModified TIMESTAMP NOT NULL DEFAULT '0000-00-00 00:00:00';
UPDATE version SET version = 121 WHERE schema = 'userdata';

-- [migrate]
CREATE TABLE deletedItemsNew(
    itemID INTEGER PRIMARY KEY, dateDeleted DEFAULT CURRENT_TIMESTAMP NOT NULL,
    FOREIGN KEY (itemID) REFERENCES items(itemID) ON DELETE CASCADE);
INSERT INTO deletedItemsNew SELECT * FROM deletedItems;
DROP TABLE deletedItems;
ALTER TABLE deletedItemsNew RENAME TO deletedItems;
CREATE TRIGGER item_trashed AFTER INSERT ON deletedItems BEGIN
    UPDATE items SET synced = 0, version = version + 1 WHERE itemID = NEW.itemID;
END;
