-- A server of dashboards whose names are quoted in three ways, with spaces, keywords and other alphabets in them.

-- [made]
CREATE TABLE `migration_log` (
`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL
, `migration_id` TEXT NOT NULL
, `sql` TEXT NOT NULL
, `success` INTEGER NOT NULL
, `timestamp` DATETIME NOT NULL
);
CREATE TABLE `user` (
`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL
, `version` INTEGER NOT NULL
, `login` TEXT NOT NULL
, `email` TEXT NOT NULL
, `is_admin` INTEGER NOT NULL
, `created` DATETIME NOT NULL
, `last_seen_at` DATETIME NULL);
CREATE TABLE `dashboard` (
`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL
, `slug` TEXT NOT NULL
, `title` TEXT NOT NULL
, `data` MEDIUMTEXT NOT NULL
, `org_id` INTEGER NOT NULL DEFAULT 1
, `is_folder` INTEGER NOT NULL DEFAULT 0
, `uid` TEXT NULL
, `thumbnail` BLOB NULL);
CREATE TABLE [dbo.Order Details] (
    [Order ID] int NOT NULL, [group] nvarchar(20) NULL, [Unit Price] money NOT NULL DEFAULT (0),
    CONSTRAINT [PK_Order Details] PRIMARY KEY ([Order ID], [group]),
    CONSTRAINT [CK_Price] CHECK ([Unit Price] >= 0));
CREATE TABLE "заметки" ("имя" TEXT PRIMARY KEY, "размер ""в байтах""" INTEGER, "select" TEXT AS (upper("имя")));
CREATE TABLE `it's` ("a""b" INTEGER REFERENCES `user`(`id`) ON UPDATE CASCADE ON DELETE SET NULL, [c'd] TEXT);
CREATE UNIQUE INDEX `UQE_user_login` ON `user` (`login`);
CREATE UNIQUE INDEX `UQE_dashboard_org_id_uid` ON `dashboard` (`org_id`,`uid`);
CREATE INDEX [IX Order Details] ON [dbo.Order Details] ([Unit Price] DESC, [group] COLLATE NOCASE);
CREATE INDEX "индекс" ON "заметки" ("select") WHERE "размер ""в байтах""" > 0;
CREATE INDEX `it's index` ON `it's` ("a""b");
CREATE VIEW [Order Totals] AS SELECT [Order ID], sum([Unit Price]) AS [Sub total] FROM [dbo.Order Details] GROUP BY 1;
CREATE TRIGGER `log it` AFTER UPDATE OF `login` ON `user` WHEN old.`login` <> new.`login` BEGIN
    INSERT INTO "заметки" ("имя", "размер ""в байтах""") VALUES (old.`login` || ' → ' || new.`login`, 1);
END;
CREATE TRIGGER [of totals] INSTEAD OF UPDATE OF [Sub total] ON [Order Totals] BEGIN
    UPDATE [dbo.Order Details] SET [Unit Price] = new.[Sub total] WHERE [Order ID] = old.[Order ID];
END;
INSERT INTO `migration_log` (`migration_id`, `sql`, `success`, `timestamp`) VALUES ('create user table', 'CREATE TABLE ..; -- "x"', 1, '2024-01-01 00:00:00');
INSERT INTO `user` VALUES (1, 0, 'admin', 'admin@localhost', 1, '2024-01-01', NULL), (2, 7, 'ö', '', 0, '2024-01-01', '2024-01-02');
INSERT INTO `dashboard` (`slug`, `title`, `data`, `uid`, `thumbnail`) VALUES ('a', 'Übersicht', '{"panels": []}', NULL, x'89'), ('b', '概要', '', 'b', NULL), ('c', '', '', NULL, x'');
INSERT INTO [dbo.Order Details] VALUES (1, 'A', 12.5), (1, NULL, 0), (1, NULL, 3), (2, 'a', 99999999999999999);
INSERT INTO "заметки" ("имя", "размер ""в байтах""") VALUES ('первая', 10), ('ß', NULL), (NULL, -1);
INSERT INTO `it's` VALUES (1, 'x''y'), (2, NULL), (NULL, '"');

-- [write]
UPDATE `user` SET `login` = 'root' WHERE `id` = 1;
UPDATE `user` SET `id` = 20 WHERE `id` = 2;
UPDATE [Order Totals] SET [Sub total] = 5 WHERE [Order ID] = 1;
INSERT INTO `dashboard` (`slug`, `title`, `data`, `uid`) VALUES ('d', 't', '{}', 'b') ON CONFLICT (`org_id`, `uid`) DO UPDATE SET `title` = `excluded`.`title`;
DELETE FROM `user` WHERE `login` = 'root';

-- [read]
SELECT "select", "размер ""в байтах""" FROM "заметки" ORDER BY "имя";
SELECT * FROM [Order Totals] ORDER BY 1;
SELECT "a""b", [c'd] FROM `it's` ORDER BY 2;
SELECT `group` FROM [dbo.Order Details] ORDER BY [Unit Price] DESC, [group] COLLATE NOCASE;

-- [migrate]
ALTER TABLE `user` ADD COLUMN `salt` TEXT NULL;
ALTER TABLE "заметки" ADD COLUMN "длина" INTEGER AS (length("имя"));

-- [migrate]
PRAGMA legacy_alter_table = ON;
CREATE TABLE [new Order Details] (
    [Order ID] int NOT NULL, [group] nvarchar(20) NULL, [Unit Price] money NOT NULL DEFAULT (0),
    [Discount] real NOT NULL DEFAULT 0);
INSERT INTO [new Order Details] ([Order ID], [group], [Unit Price]) SELECT * FROM [dbo.Order Details];
DROP TABLE [dbo.Order Details];
ALTER TABLE [new Order Details] RENAME TO [dbo.Order Details];
CREATE INDEX [IX Order Details] ON [dbo.Order Details] ([Unit Price] DESC, [group] COLLATE NOCASE);
