-- A GeoPackage of features and tiles, with its R-tree and the triggers of its extension. The functions for geometries
-- are the program's.

-- [made]
PRAGMA page_size = 2048;
PRAGMA application_id = 0x47504b47;
PRAGMA user_version = 10300;
CREATE TABLE gpkg_spatial_ref_sys(
    srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents(
    table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE, description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')), min_x DOUBLE, min_y DOUBLE,
    max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
    CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns(
    table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL,
    z TINYINT NOT NULL, m TINYINT NOT NULL, CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name),
    CONSTRAINT uk_gc_table_name UNIQUE (table_name),
    CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE gpkg_extensions(
    table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL, scope TEXT NOT NULL,
    CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name));
CREATE TABLE gpkg_tile_matrix(
    table_name TEXT NOT NULL, zoom_level INTEGER NOT NULL, matrix_width INTEGER NOT NULL,
    pixel_x_size DOUBLE NOT NULL, CONSTRAINT pk_ttm PRIMARY KEY (table_name, zoom_level),
    CONSTRAINT fk_tmm_table_name FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name));
CREATE TABLE gpkg_ogr_contents(table_name TEXT NOT NULL PRIMARY KEY, feature_count INTEGER DEFAULT NULL);
CREATE TABLE "Bäume" (
    "fid" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, "geom" POINT, "art" TEXT(80), "höhe" REAL, "gefällt" BOOLEAN);
CREATE VIRTUAL TABLE "rtree_Bäume_geom" USING rtree(id, minx, maxx, miny, maxy);
CREATE TRIGGER "rtree_Bäume_geom_insert" AFTER INSERT ON "Bäume"
    WHEN (new."geom" NOT NULL AND NOT ST_IsEmpty(NEW."geom"))
BEGIN
    INSERT OR REPLACE INTO "rtree_Bäume_geom" VALUES (
        NEW."fid", ST_X(NEW."geom"), ST_X(NEW."geom"), ST_Y(NEW."geom"), ST_Y(NEW."geom"));
END;
CREATE TRIGGER "rtree_Bäume_geom_update" AFTER UPDATE OF "geom" ON "Bäume"
    WHEN OLD."fid" = NEW."fid" AND (NEW."geom" NOTNULL AND NOT ST_IsEmpty(NEW."geom"))
BEGIN
    INSERT OR REPLACE INTO "rtree_Bäume_geom" VALUES (
        NEW."fid", ST_X(NEW."geom"), ST_X(NEW."geom"), ST_Y(NEW."geom"), ST_Y(NEW."geom"));
END;
CREATE TRIGGER "rtree_Bäume_geom_delete" AFTER DELETE ON "Bäume" WHEN old."geom" NOT NULL
BEGIN
    DELETE FROM "rtree_Bäume_geom" WHERE id = OLD."fid";
END;
CREATE TRIGGER "trigger_insert_feature_count_Bäume" AFTER INSERT ON "Bäume"
BEGIN
    UPDATE gpkg_ogr_contents SET feature_count = feature_count + 1 WHERE lower(table_name) = lower('Bäume');
END;
CREATE TRIGGER "trigger_delete_feature_count_Bäume" AFTER DELETE ON "Bäume"
BEGIN
    UPDATE gpkg_ogr_contents SET feature_count = feature_count - 1 WHERE lower(table_name) = lower('Bäume');
END;
CREATE TRIGGER gpkg_tile_matrix_zoom_level_insert BEFORE INSERT ON gpkg_tile_matrix
BEGIN
    SELECT RAISE(ABORT, 'insert on table ''gpkg_tile_matrix'' violates constraint: zoom_level cannot be less than 0')
        WHERE (NEW.zoom_level < 0);
END;
INSERT INTO gpkg_spatial_ref_sys VALUES ('WGS 84', 4326, 'EPSG', 4326, 'GEOGCS["WGS 84"]', NULL),
    ('Undefined', -1, 'NONE', -1, 'undefined', 'undefined');
INSERT INTO gpkg_contents VALUES ('Bäume', 'features', 'Bäume', '', '2024-01-01T00:00:00.000Z', NULL, -90.5, NULL, 90.5, 4326),
    ('tiles', 'tiles', NULL, NULL, '2024-01-01T00:00:00.000Z', NULL, NULL, NULL, NULL, -1);
INSERT INTO gpkg_geometry_columns VALUES ('Bäume', 'geom', 'POINT', 4326, 0, 0);
INSERT INTO gpkg_ogr_contents VALUES ('Bäume', 0);
INSERT INTO gpkg_extensions VALUES ('Bäume', 'geom', 'gpkg_rtree_index', 'http://www.geopackage.org/spec120/', 'write-only'),
    (NULL, NULL, 'gpkg_crs_wkt', 'x', 'read-write');
INSERT INTO gpkg_tile_matrix VALUES ('tiles', 0, 1, 1.40625), ('tiles', 1, 2, 0.703125);
INSERT INTO "Bäume"("geom", "art", "höhe", "gefällt") VALUES (x'0a14', 'Esche', 21.5, 0), (x'ff01', '桜', NULL, NULL),
    (NULL, NULL, 1e-300, 1), (x'', 'ohne Ort', 0.1, 0);
INSERT INTO "Bäume"("geom", "art") WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    SELECT CAST(char(i % 100 + 1) || char(i % 90 + 1) AS BLOB), 'Nr. ' || i FROM n;

-- [write]
INSERT INTO "Bäume"("geom", "art") VALUES (x'6464', 'Linde');
UPDATE "Bäume" SET "geom" = x'0505' WHERE "art" = 'Esche';
DELETE FROM "Bäume" WHERE "fid" BETWEEN 100 AND 200;
UPDATE gpkg_contents SET identifier = 'Baum' WHERE table_name = 'Bäume';

-- [read]
SELECT t.art FROM "rtree_Bäume_geom" AS r JOIN "Bäume" AS t ON t.fid = r.id
    WHERE minx >= 4 AND maxx <= 6 AND miny >= 4 AND maxy <= 6 ORDER BY t.fid;
SELECT feature_count, (SELECT count(*) FROM "Bäume") FROM gpkg_ogr_contents;
SELECT rtreecheck('rtree_Bäume_geom');

-- [migrate]
ALTER TABLE "Bäume" ADD COLUMN "gepflanzt" DATE;
ALTER TABLE "Bäume" RENAME COLUMN "höhe" TO "hoehe";

-- [migrate]
CREATE TABLE new_tile_matrix(
    table_name TEXT NOT NULL, zoom_level INTEGER NOT NULL CHECK (zoom_level >= 0), matrix_width INTEGER NOT NULL,
    pixel_x_size DOUBLE NOT NULL, CONSTRAINT pk_ttm PRIMARY KEY (table_name, zoom_level),
    CONSTRAINT fk_tmm_table_name FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name));
INSERT INTO new_tile_matrix SELECT * FROM gpkg_tile_matrix;
DROP TABLE gpkg_tile_matrix;
ALTER TABLE new_tile_matrix RENAME TO gpkg_tile_matrix;
