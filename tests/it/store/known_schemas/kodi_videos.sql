-- The video library of Kodi, here in UTF-16: wide views, and triggers that clean up.

-- [made]
PRAGMA encoding = 'UTF-16le';
PRAGMA page_size = 4096;
PRAGMA auto_vacuum = FULL;
CREATE TABLE version(idVersion integer, iCompressCount integer);
CREATE TABLE path(
    idPath integer primary key, strPath text, strContent text, strHash text, scanRecursive integer,
    useFolderNames bool, idParentPath integer);
CREATE TABLE files(
    idFile integer primary key, idPath integer, strFilename text, playCount integer, lastPlayed text, dateAdded text);
CREATE TABLE movie(
    idMovie integer primary key, idFile integer, c00 text, c01 text, c02 text, c05 text, idSet integer,
    userrating integer, premiered text);
CREATE TABLE sets(idSet integer primary key, strSet text, strOverview text);
CREATE TABLE actor(actor_id INTEGER PRIMARY KEY, name TEXT, art_urls TEXT);
CREATE TABLE actor_link(actor_id INTEGER, media_id INTEGER, media_type TEXT, role TEXT, cast_order INTEGER);
CREATE TABLE genre(genre_id integer primary key, name TEXT);
CREATE TABLE genre_link(genre_id integer, media_id integer, media_type TEXT);
CREATE TABLE rating(
    rating_id INTEGER PRIMARY KEY, media_id INTEGER, media_type TEXT, rating_type TEXT, rating FLOAT, votes INTEGER);
CREATE TABLE streamdetails(
    idFile integer, iStreamType integer, strVideoCodec text, fVideoAspect float, iVideoWidth integer,
    strAudioLanguage text);
CREATE TABLE art(
    art_id INTEGER PRIMARY KEY, media_id INTEGER, media_type TEXT, type TEXT, url TEXT, thumb BLOB);
CREATE UNIQUE INDEX ix_movie_file_1 ON movie(idFile, idMovie);
CREATE INDEX ix_path ON path(strPath);
CREATE INDEX ix_files ON files(idPath, strFilename);
CREATE UNIQUE INDEX ix_actor_1 ON actor(name);
CREATE UNIQUE INDEX ix_actor_link_1 ON actor_link(actor_id, media_type, media_id, role);
CREATE UNIQUE INDEX ix_genre_link_1 ON genre_link(genre_id, media_type, media_id);
CREATE INDEX ix_art ON art(media_id, media_type, type);
CREATE TRIGGER delete_movie AFTER DELETE ON movie FOR EACH ROW BEGIN
    DELETE FROM genre_link WHERE media_id = old.idMovie AND media_type = 'movie';
    DELETE FROM actor_link WHERE media_id = old.idMovie AND media_type = 'movie';
    DELETE FROM rating WHERE media_id = old.idMovie AND media_type = 'movie';
    DELETE FROM art WHERE media_id = old.idMovie AND media_type = 'movie';
END;
CREATE TRIGGER delete_file AFTER DELETE ON files FOR EACH ROW BEGIN
    DELETE FROM streamdetails WHERE idFile = old.idFile;
    DELETE FROM movie WHERE idFile = old.idFile;
END;
CREATE TRIGGER delete_person AFTER DELETE ON actor FOR EACH ROW BEGIN
    DELETE FROM actor_link WHERE actor_id = old.actor_id;
END;
CREATE VIEW movie_view AS
    SELECT movie.*, sets.strSet AS strSet, files.strFileName AS strFileName, path.strPath AS strPath,
        files.playCount AS playCount, rating.rating AS rating, rating.votes AS votes
    FROM movie
        LEFT JOIN sets ON sets.idSet = movie.idSet
        JOIN files ON files.idFile = movie.idFile
        JOIN path ON path.idPath = files.idPath
        LEFT JOIN rating ON rating.media_id = movie.idMovie AND rating.media_type = 'movie';
CREATE VIEW genres_by_movie(name, movies) AS
    SELECT genre.name, group_concat(movie.c00, ', ' ORDER BY movie.c00) FROM genre JOIN genre_link USING (genre_id)
        JOIN movie ON movie.idMovie = media_id AND media_type = 'movie' GROUP BY genre.genre_id;
INSERT INTO version VALUES (131, 0);
INSERT INTO path VALUES (1, '/media/Filme/', 'movies', NULL, 2147483647, 1, NULL), (2, 'smb://büro/影片/', NULL, '', 0, 0, 1);
INSERT INTO files VALUES (1, 1, 'm.mkv', NULL, NULL, '2024-01-01 00:00:00'), (2, 2, '千と千尋.mkv', 3, '2024-01-02', '2024-01-01'), (3, 1, '', 0, '', '');
INSERT INTO sets VALUES (1, 'Eine Reihe', NULL);
INSERT INTO movie VALUES (1, 1, 'M – Eine Stadt sucht einen Mörder', 'plot', NULL, '8.3', 1, NULL, '1931-05-11'), (2, 2, '千と千尋の神隠し', '', '', NULL, NULL, 10, NULL), (3, 3, 'ohne 🎬', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO actor VALUES (1, 'Peter Lorre', '<thumb/>'), (2, '柊瑠美', NULL);
INSERT INTO actor_link VALUES (1, 1, 'movie', 'Beckert', 0), (2, 2, 'movie', NULL, 1);
INSERT INTO genre VALUES (1, 'Krimi'), (2, 'Zeichentrick');
INSERT INTO genre_link VALUES (1, 1, 'movie'), (2, 2, 'movie'), (1, 3, 'movie');
INSERT INTO rating VALUES (1, 1, 'movie', 'imdb', 8.3, 170000), (2, 2, 'movie', 'imdb', 8.6, 900000);
INSERT INTO streamdetails VALUES (1, 0, 'h264', 1.19, 1920, NULL), (1, 1, NULL, NULL, NULL, 'deu');
INSERT INTO art VALUES (1, 1, 'movie', 'poster', 'image://é', x'ffd8ff'), (2, 2, 'movie', 'fanart', '', NULL);

-- [write]
INSERT INTO movie VALUES (4, 1, 'M, zweite Fassung', NULL, NULL, NULL, 1, 7, NULL);
INSERT INTO genre_link VALUES (1, 4, 'movie');
UPDATE files SET playCount = ifnull(playCount, 0) + 1, lastPlayed = '2024-03-01' WHERE strFilename LIKE '千%';
DELETE FROM files WHERE idFile = 3;
DELETE FROM actor WHERE name = 'Peter Lorre';

-- [read]
SELECT c00, strSet, strPath, rating, playCount FROM movie_view ORDER BY idMovie;
SELECT * FROM genres_by_movie ORDER BY name;
SELECT hex(c00), length(c00) FROM movie WHERE c00 >= '千' ORDER BY c00;

-- [migrate]
ALTER TABLE movie ADD COLUMN idVersion integer DEFAULT 0;
ALTER TABLE path ADD COLUMN exclude bool;
UPDATE version SET idVersion = 132;

-- [migrate]
PRAGMA legacy_alter_table = ON;
CREATE TABLE rating_new(
    rating_id INTEGER PRIMARY KEY, media_id INTEGER NOT NULL, media_type TEXT NOT NULL COLLATE NOCASE,
    rating_type TEXT, rating FLOAT, votes INTEGER);
INSERT INTO rating_new SELECT * FROM rating;
DROP TABLE rating;
ALTER TABLE rating_new RENAME TO rating;
CREATE INDEX ix_rating ON rating(media_id, media_type);
