-- An application of Rails with stored files.

-- [made]
PRAGMA journal_mode = WAL;
CREATE TABLE "schema_migrations" ("version" varchar NOT NULL PRIMARY KEY);
CREATE TABLE "ar_internal_metadata" ("key" varchar NOT NULL PRIMARY KEY, "value" varchar, "created_at" datetime(6) NOT NULL, "updated_at" datetime(6) NOT NULL);
CREATE TABLE "users" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "email" varchar DEFAULT '' NOT NULL, "first_name" varchar, "last_name" varchar, "full_name" varchar GENERATED ALWAYS AS (first_name || ' ' || last_name) VIRTUAL, "name_length" integer GENERATED ALWAYS AS (length(first_name)) STORED, "settings" json DEFAULT '{}' NOT NULL, "balance" decimal(10,2) DEFAULT '0.0' NOT NULL, "discarded_at" datetime(6), "created_at" datetime(6) NOT NULL, "updated_at" datetime(6) NOT NULL);
CREATE TABLE "posts" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "user_id" integer NOT NULL, "title" varchar, "body" text, "published" boolean DEFAULT 0, "position" integer, "comments_count" integer DEFAULT 0 NOT NULL, "created_at" datetime(6) NOT NULL, CONSTRAINT "fk_rails_5b5ddfd518" FOREIGN KEY ("user_id") REFERENCES "users" ("id") ON DELETE CASCADE, CONSTRAINT chk_rails_position CHECK (position > 0));
CREATE TABLE "active_storage_blobs" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "key" varchar NOT NULL, "filename" varchar NOT NULL, "content_type" varchar, "metadata" text, "byte_size" bigint NOT NULL, "checksum" varchar, "created_at" datetime(6) NOT NULL);
CREATE TABLE "active_storage_attachments" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "name" varchar NOT NULL, "record_type" varchar NOT NULL, "record_id" bigint NOT NULL, "blob_id" bigint NOT NULL, CONSTRAINT "fk_rails_c3b3935057" FOREIGN KEY ("blob_id") REFERENCES "active_storage_blobs" ("id"));
CREATE TABLE "solid_cache_entries" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "key" blob(1024) NOT NULL, "value" blob(536870912) NOT NULL, "key_hash" integer(8) NOT NULL);
CREATE UNIQUE INDEX "index_users_on_lower_email" ON "users" (lower(email));
CREATE INDEX "index_users_on_full_name" ON "users" ("full_name");
CREATE INDEX "index_users_kept" ON "users" ("created_at" DESC) WHERE discarded_at IS NULL;
CREATE INDEX "index_posts_on_user_id" ON "posts" ("user_id");
CREATE UNIQUE INDEX "index_active_storage_blobs_on_key" ON "active_storage_blobs" ("key");
CREATE INDEX "index_active_storage_attachments_on_blob_id" ON "active_storage_attachments" ("blob_id");
CREATE UNIQUE INDEX "index_solid_cache_entries_on_key_hash" ON "solid_cache_entries" ("key_hash");
CREATE TRIGGER comments_counter AFTER INSERT ON active_storage_attachments WHEN new.record_type = 'Post' BEGIN
    UPDATE posts SET comments_count = comments_count + 1 WHERE id = new.record_id;
END;
INSERT INTO "schema_migrations" VALUES ('20240101000000'), ('20240102000000');
INSERT INTO "ar_internal_metadata" VALUES ('environment', 'production', '2024-01-01 00:00:00.000000', '2024-01-01 00:00:00.000000'), ('schema_sha1', NULL, '2024-01-01', '2024-01-01');
INSERT INTO "users"("email", "first_name", "last_name", "balance", "discarded_at", "created_at", "updated_at") VALUES ('Ada@example.org', 'Ada', 'Lovelace', 12.5, NULL, '2024-01-01 00:00:00.000001', '2024-01-01'), ('œ@example.org', NULL, 'Ø', -1, '2024-01-02', '2024-01-01', '2024-01-01');
INSERT INTO "posts"("user_id", "title", "body", "published", "position", "created_at") VALUES (1, 'Notizen', 'Über die 解析機関', 1, 1, '2024-01-01'), (1, NULL, NULL, NULL, NULL, '2024-01-02'), (2, '', '', 0, 3, '2024-01-02');
INSERT INTO "active_storage_blobs" VALUES (1, 'k1', 'größe.png', 'image/png', '{"identified":true}', 5000000000, NULL, '2024-01-01');
INSERT INTO "active_storage_attachments"("name", "record_type", "record_id", "blob_id") VALUES ('cover', 'Post', 1, 1), ('avatar', 'User', 1, 1);
INSERT INTO "solid_cache_entries"("key", "value", "key_hash") VALUES (x'00ff', zeroblob(10000), -4611686018427387904), (x'', x'', 1);

-- [write]
INSERT INTO "users"("email", "first_name", "last_name", "created_at", "updated_at") VALUES ('grace@example.org', 'Grace', 'Hopper', '2024-01-03', '2024-01-03') RETURNING "id";
INSERT INTO "active_storage_attachments"("name", "record_type", "record_id", "blob_id") VALUES ('image', 'Post', 1, 1);
INSERT INTO "solid_cache_entries"("key", "value", "key_hash") VALUES (x'01', x'02', 1) ON CONFLICT ("key_hash") DO UPDATE SET "key" = excluded."key", "value" = excluded."value";
UPDATE "users" SET "first_name" = 'Édith' WHERE lower(email) = 'œ@example.org';
DELETE FROM "users" WHERE lower(email) = 'œ@example.org';

-- [read]
SELECT "full_name", "name_length" FROM "users" ORDER BY "full_name";
SELECT "id", "comments_count" FROM "posts" ORDER BY "id";
SELECT "email" FROM "users" WHERE discarded_at IS NULL ORDER BY "created_at" DESC;

-- [migrate]
ALTER TABLE "users" ADD "admin" boolean DEFAULT 0 NOT NULL;
ALTER TABLE "users" ADD "initial" varchar GENERATED ALWAYS AS (substr(first_name, 1, 1)) VIRTUAL;

-- [migrate]
CREATE TABLE "aposts" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "user_id" integer NOT NULL, "title" varchar DEFAULT '' NOT NULL, "body" text, "published" boolean DEFAULT 0 NOT NULL, "position" integer, "comments_count" integer DEFAULT 0 NOT NULL, "created_at" datetime(6) NOT NULL, CONSTRAINT "fk_rails_5b5ddfd518" FOREIGN KEY ("user_id") REFERENCES "users" ("id") ON DELETE CASCADE);
INSERT INTO "aposts" SELECT "id", "user_id", ifnull("title", ''), "body", ifnull("published", 0), "position", "comments_count", "created_at" FROM "posts";
DROP TRIGGER comments_counter;
DROP TABLE "posts";
ALTER TABLE "aposts" RENAME TO "posts";
CREATE INDEX "index_posts_on_user_id" ON "posts" ("user_id");
CREATE TRIGGER comments_counter AFTER INSERT ON active_storage_attachments WHEN new.record_type = 'Post' BEGIN
    UPDATE posts SET comments_count = comments_count + 1 WHERE id = new.record_id;
END;
