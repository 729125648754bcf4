//! Moves from and to a real PostgreSQL server, which each test starts for itself.

pub(crate) mod breaks;
mod dumps;
pub(crate) mod export;
mod features;
mod import;
mod json;
pub(crate) mod large;
mod losses;
mod plan;
pub(crate) mod resume;
mod round_trip;
pub(crate) mod tls;
mod values;
mod views;

use larder::Store;

use crate::support::postgres::Postgres;

/// A store with these tables and rows.
fn store_of(sql: &'static str) -> Store {
    let store = Store::open_temp().unwrap();
    store.write(move |tx| tx.execute_batch(sql)).unwrap();
    store
}

/// The number of tables, indexes and sequences in the schema `public` of the server.
fn tables(server: &Postgres, database: &str) -> String {
    server.run(
        database,
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    )
}

/// Gives each table of that name (`%` for all) a trigger as it is created, which runs `work` before each row.
fn before_insert(server: &Postgres, database: &str, table: &str, work: &str) {
    let sql = format!(
        "CREATE FUNCTION work() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {work} RETURN NEW; END $$;
         CREATE FUNCTION on_table() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN
            FOR r IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE'
                    AND object_identity LIKE '%.{table}' LOOP
                EXECUTE format('CREATE TRIGGER work BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION public.work()',
                    r.object_identity);
            END LOOP;
         END $$;
         CREATE EVENT TRIGGER work ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION on_table()"
    );
    server.run(database, &sql);
}
