-- A site of Django with its own apps and one of the project.

-- [made]
CREATE TABLE "django_migrations" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app" varchar(255) NOT NULL, "name" varchar(255) NOT NULL, "applied" datetime NOT NULL);
CREATE TABLE "django_content_type" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app_label" varchar(100) NOT NULL, "model" varchar(100) NOT NULL);
CREATE TABLE "auth_permission" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "content_type_id" integer NOT NULL REFERENCES "django_content_type" ("id") DEFERRABLE INITIALLY DEFERRED, "codename" varchar(100) NOT NULL, "name" varchar(255) NOT NULL);
CREATE TABLE "auth_group" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "name" varchar(150) NOT NULL UNIQUE);
CREATE TABLE "auth_user" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "password" varchar(128) NOT NULL, "last_login" datetime NULL, "is_superuser" bool NOT NULL, "username" varchar(150) NOT NULL UNIQUE, "last_name" varchar(150) NOT NULL, "email" varchar(254) NOT NULL, "is_active" bool NOT NULL, "date_joined" datetime NOT NULL);
CREATE TABLE "auth_user_groups" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "user_id" integer NOT NULL REFERENCES "auth_user" ("id") DEFERRABLE INITIALLY DEFERRED, "group_id" integer NOT NULL REFERENCES "auth_group" ("id") DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE "django_admin_log" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "object_id" text NULL, "object_repr" varchar(200) NOT NULL, "action_flag" smallint unsigned NOT NULL CHECK ("action_flag" >= 0), "change_message" text NOT NULL, "content_type_id" integer NULL REFERENCES "django_content_type" ("id") DEFERRABLE INITIALLY DEFERRED, "user_id" integer NOT NULL REFERENCES "auth_user" ("id") DEFERRABLE INITIALLY DEFERRED, "action_time" datetime NOT NULL);
CREATE TABLE "django_session" ("session_key" varchar(40) NOT NULL PRIMARY KEY, "session_data" text NOT NULL, "expire_date" datetime NOT NULL);
CREATE TABLE "shop_order" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "price" decimal NOT NULL, "quantity" integer unsigned NOT NULL CHECK ("quantity" >= 0), "total" decimal GENERATED ALWAYS AS ((CAST((CAST("price" AS NUMERIC) * "quantity") AS NUMERIC))) STORED, "data" text NOT NULL CHECK ((JSON_VALID("data") OR "data" IS NULL)), "token" char(32) NULL UNIQUE, "receipt" BLOB NULL, "replaces_id" bigint NULL UNIQUE REFERENCES "shop_order" ("id") DEFERRABLE INITIALLY DEFERRED, CONSTRAINT "price_is_positive" CHECK ("price" > '0'));
CREATE UNIQUE INDEX "django_content_type_app_label_model_76bd3d3b_uniq" ON "django_content_type" ("app_label", "model");
CREATE INDEX "auth_permission_content_type_id_2f476e4b" ON "auth_permission" ("content_type_id");
CREATE UNIQUE INDEX "auth_user_groups_user_id_group_id_94350c0c_uniq" ON "auth_user_groups" ("user_id", "group_id");
CREATE INDEX "auth_user_groups_group_id_97559544" ON "auth_user_groups" ("group_id");
CREATE INDEX "django_admin_log_content_type_id_c4bce8eb" ON "django_admin_log" ("content_type_id");
CREATE INDEX "django_admin_log_user_id_c564eba6" ON "django_admin_log" ("user_id");
CREATE INDEX "django_session_expire_date_a5c62663" ON "django_session" ("expire_date");
CREATE UNIQUE INDEX "one_open_order" ON "shop_order" ((LOWER(JSON_EXTRACT("data", '$."customer"')))) WHERE "replaces_id" IS NULL;
INSERT INTO "django_migrations"("app", "name", "applied") VALUES ('contenttypes', '0001_initial', '2024-01-01 00:00:00'), ('auth', '0001_initial', '2024-01-01 00:00:01.123456'), ('shop', '0001_initial', '2024-01-01 00:00:02');
INSERT INTO "django_content_type"("app_label", "model") VALUES ('auth', 'user'), ('shop', 'order');
INSERT INTO "auth_permission"("content_type_id", "codename", "name") VALUES (1, 'add_user', 'Can add user'), (2, 'view_order', 'Darf Aufträge sehen');
INSERT INTO "auth_group"("name") VALUES ('Käufer');
INSERT INTO "auth_user" VALUES (1, 'pbkdf2_sha256$1$x$y=', NULL, 1, 'ada', 'Łukasiewicz', '', 1, '2024-01-01 00:00:00'), (2, '!', '2024-01-02', 0, 'дмитрий', '', 'd@example.org', 0, '2024-01-01');
INSERT INTO "auth_user_groups"("user_id", "group_id") VALUES (1, 1), (2, 1);
INSERT INTO "django_admin_log" VALUES (1, NULL, 'ada', 2, '[{"changed": {}}]', 1, 1, '2024-01-01 00:00:00');
INSERT INTO "django_session" VALUES ('abc', 'e30:1', '2024-01-15 00:00:00');
INSERT INTO "shop_order"("id", "price", "quantity", "data", "token", "receipt", "replaces_id") VALUES (1, '9.99', 3, '{"customer": "Ada"}', NULL, x'25504446', NULL), (2, 12, 0, '{}', 'ffffffffffffffffffffffffffffffff', NULL, 1);

-- [write]
INSERT INTO "auth_user_groups"("user_id", "group_id") VALUES (3, 2);
INSERT INTO "auth_group"("name") VALUES ('später');
INSERT INTO "auth_user" VALUES (3, '!', NULL, 0, 'grace', '', '', 1, '2024-01-03');
INSERT INTO "shop_order"("price", "quantity", "data", "replaces_id") VALUES (0.5, 4, '{"customer": "Grace"}', NULL), (7, 1, 'null', 2);
UPDATE "shop_order" SET "quantity" = "quantity" + 1 WHERE JSON_EXTRACT("data", '$."customer"') = 'Ada';
DELETE FROM "django_session" WHERE "expire_date" < '2024-02-01';

-- [read]
SELECT "id", "total" FROM "shop_order" ORDER BY "id";
SELECT "id" FROM "shop_order" WHERE LOWER(JSON_EXTRACT("data", '$."customer"')) = 'grace' AND "replaces_id" IS NULL;
SELECT u."username", g."name" FROM "auth_user" AS u JOIN "auth_user_groups" AS l ON l."user_id" = u."id" JOIN "auth_group" AS g ON g."id" = l."group_id" ORDER BY 1;

-- [migrate]
ALTER TABLE "auth_user" ADD COLUMN "bio" text DEFAULT '' NOT NULL;

-- [migrate]
CREATE TABLE "new__auth_user" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "password" varchar(128) NOT NULL, "last_login" datetime NULL, "is_superuser" bool NOT NULL, "username" varchar(150) NOT NULL UNIQUE, "last_name" varchar(150) NOT NULL, "email" varchar(320) NULL, "is_active" bool NOT NULL, "date_joined" datetime NOT NULL, "bio" text NOT NULL);
INSERT INTO "new__auth_user" ("id", "password", "last_login", "is_superuser", "username", "last_name", "email", "is_active", "date_joined", "bio") SELECT "id", "password", "last_login", "is_superuser", "username", "last_name", nullif("email", ''), "is_active", "date_joined", "bio" FROM "auth_user";
DROP TABLE "auth_user";
ALTER TABLE "new__auth_user" RENAME TO "auth_user";
CREATE UNIQUE INDEX "auth_user_email" ON "auth_user" ("email") WHERE "email" IS NOT NULL;
