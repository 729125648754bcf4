-- The recorder of Home Assistant, as SQLAlchemy writes a schema.

-- [made]
PRAGMA journal_mode = WAL;
CREATE TABLE event_types (
	event_type_id INTEGER NOT NULL, 
	event_type VARCHAR(64), 
	PRIMARY KEY (event_type_id)
);
CREATE TABLE event_data (
	data_id INTEGER NOT NULL, 
	hash BIGINT, 
	shared_data TEXT, 
	PRIMARY KEY (data_id)
);
CREATE TABLE events (
	event_id INTEGER NOT NULL, 
	event_type CHAR(0), 
	time_fired_ts FLOAT, 
	data_id INTEGER, 
	context_id_bin BLOB, 
	event_type_id INTEGER, 
	PRIMARY KEY (event_id), 
	FOREIGN KEY(data_id) REFERENCES event_data (data_id), 
	FOREIGN KEY(event_type_id) REFERENCES event_types (event_type_id)
);
CREATE TABLE states_meta (
	metadata_id INTEGER NOT NULL, 
	entity_id VARCHAR(255), 
	PRIMARY KEY (metadata_id)
);
CREATE TABLE state_attributes (
	attributes_id INTEGER NOT NULL, 
	hash BIGINT, 
	shared_attrs TEXT, 
	PRIMARY KEY (attributes_id)
);
CREATE TABLE states (
	state_id INTEGER NOT NULL, 
	entity_id CHAR(0), 
	state VARCHAR(255), 
	last_changed_ts FLOAT, 
	last_updated_ts FLOAT, 
	old_state_id INTEGER, 
	attributes_id INTEGER, 
	context_id_bin BLOB, 
	metadata_id INTEGER, 
	PRIMARY KEY (state_id), 
	FOREIGN KEY(old_state_id) REFERENCES states (state_id), 
	FOREIGN KEY(attributes_id) REFERENCES state_attributes (attributes_id), 
	FOREIGN KEY(metadata_id) REFERENCES states_meta (metadata_id)
);
CREATE TABLE statistics_meta (
	id INTEGER NOT NULL, 
	statistic_id VARCHAR(255), 
	source VARCHAR(32), 
	unit_of_measurement VARCHAR(255), 
	has_mean BOOLEAN, 
	PRIMARY KEY (id)
);
CREATE TABLE statistics (
	id INTEGER NOT NULL, 
	created_ts FLOAT, 
	metadata_id INTEGER, 
	start_ts FLOAT, 
	mean FLOAT, 
	state FLOAT, 
	sum FLOAT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(metadata_id) REFERENCES statistics_meta (id) ON DELETE CASCADE
);
CREATE TABLE schema_changes (
	change_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	changed DATETIME, 
	PRIMARY KEY (change_id)
);
CREATE UNIQUE INDEX ix_event_types_event_type ON event_types (event_type);
CREATE INDEX ix_events_context_id_bin ON events (context_id_bin);
CREATE INDEX ix_events_data_id ON events (data_id);
CREATE INDEX ix_events_event_type_id_time_fired_ts ON events (event_type_id, time_fired_ts);
CREATE UNIQUE INDEX ix_states_meta_entity_id ON states_meta (entity_id);
CREATE INDEX ix_state_attributes_hash ON state_attributes (hash);
CREATE INDEX ix_states_old_state_id ON states (old_state_id);
CREATE INDEX ix_states_attributes_id ON states (attributes_id);
CREATE INDEX ix_states_metadata_id_last_updated_ts ON states (metadata_id, last_updated_ts);
CREATE UNIQUE INDEX ix_statistics_statistic_id_start_ts ON statistics (metadata_id, start_ts);
INSERT INTO event_types(event_type) VALUES ('state_changed'), ('call_service');
INSERT INTO event_data VALUES (1, 3344556677, '{"domain": "light"}'), (2, -1, NULL);
INSERT INTO events VALUES (1, NULL, 1700000000.123456, 1, x'018bcfe5687b000000000000000000ff', 2);
INSERT INTO states_meta VALUES (1, 'sensor.küche'), (2, 'sun.sun');
INSERT INTO state_attributes VALUES (1, 2222222222, '{"unit_of_measurement":"°C"}'), (2, 0, '{}');
INSERT INTO states VALUES (1, NULL, '21.5', NULL, 1700000000.5, NULL, 1, x'', 1), (2, NULL, 'unavailable', 1e300, 1700000060.5, 1, 2, NULL, 1),
    (3, NULL, 'above_horizon', NULL, -0.0, NULL, NULL, NULL, 2);
INSERT INTO statistics_meta VALUES (1, 'sensor.küche', 'recorder', '°C', 1);
INSERT INTO statistics(metadata_id, start_ts, mean, sum)
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    SELECT 1, 1700000000.0 + i * 3600, 20 + i / 7.0, NULL FROM n;
INSERT INTO schema_changes VALUES (1, 43, '2024-01-01 00:00:00.000000');

-- [write]
INSERT INTO states(state, last_updated_ts, old_state_id, metadata_id) VALUES ('22.0', 1700000120, 2, 1);
UPDATE states SET old_state_id = NULL WHERE old_state_id = 1;
DELETE FROM states WHERE state_id = 1;
INSERT INTO statistics(metadata_id, start_ts, mean) VALUES (1, 1700000000.0, 1) ON CONFLICT DO NOTHING;
DELETE FROM events WHERE time_fired_ts < 1700000001;
DELETE FROM event_data WHERE data_id NOT IN (SELECT data_id FROM events WHERE data_id IS NOT NULL);

-- [read]
SELECT m.entity_id, s.state FROM states AS s JOIN states_meta AS m USING (metadata_id)
    WHERE s.last_updated_ts = (SELECT max(last_updated_ts) FROM states WHERE metadata_id = m.metadata_id) ORDER BY 1;
SELECT round(avg(mean), 6), count(*) FROM statistics WHERE metadata_id = 1 AND start_ts BETWEEN 1700003600 AND 1700360000;

-- [migrate]
ALTER TABLE states ADD COLUMN last_reported_ts FLOAT;
INSERT INTO schema_changes VALUES (2, 44, '2024-02-01 00:00:00');

-- [migrate]
CREATE TABLE states_tmp (
	state_id INTEGER NOT NULL, state VARCHAR(255), last_changed_ts FLOAT, last_reported_ts FLOAT,
	last_updated_ts FLOAT, old_state_id INTEGER, attributes_id INTEGER, context_id_bin BLOB, metadata_id INTEGER,
	PRIMARY KEY (state_id),
	FOREIGN KEY(old_state_id) REFERENCES states (state_id),
	FOREIGN KEY(attributes_id) REFERENCES state_attributes (attributes_id),
	FOREIGN KEY(metadata_id) REFERENCES states_meta (metadata_id)
);
INSERT INTO states_tmp SELECT state_id, state, last_changed_ts, last_reported_ts, last_updated_ts, old_state_id,
    attributes_id, context_id_bin, metadata_id FROM states;
DROP TABLE states;
ALTER TABLE states_tmp RENAME TO states;
CREATE INDEX ix_states_old_state_id ON states (old_state_id);
CREATE INDEX ix_states_metadata_id_last_updated_ts ON states (metadata_id, last_updated_ts);
