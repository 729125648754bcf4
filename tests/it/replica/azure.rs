//! Replicas in Azure: the real protocol with Azurite.

use larder::replica::runtime;
use larder::replica::storage::{Created, Environment, FailureKind, Storage};
use tempfile::tempdir;

use super::s3::{create, keeps_a_replica};
use super::servers::Service;

/// The account that each Azurite has, with the key that Microsoft documents.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A SAS token of that account for everything, signed with that key, until 2099.
const TOKEN: &str = "sv=2021-08-06&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00:00:00Z\
                     &sig=96c2EygB3PgwPw%2FPybbUy3WlHCPrp0h%2FIdLehWe2UEU%3D";

fn connect(server: &Service, place: &str, (name, value): (&str, &str)) -> Storage {
    let environment = Environment {
        variables: [(name.to_owned(), value.to_owned())].into(),
        ..Environment::of_process()
    };
    let url = format!("abs://{ACCOUNT}@{place}?endpoint={}/{ACCOUNT}", server.url);
    Storage::connect_in(&url, &environment).unwrap()
}

/// The message of a list that failed, which has no secret.
#[track_caller]
fn refused(storage: &Storage) -> String {
    let asked = storage.clone();
    let error = runtime::wait(async move { asked.list(0).await }).unwrap().unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    let text = format!("{error} {error:?}");
    assert!(!text.contains(&KEY[..20]) && !text.contains("96c2EygB3PgwPw"), "{text}");
    error.to_string()
}

#[test]
fn azurite_keeps_a_replica() {
    let folder = tempdir().unwrap();
    let Some(azurite) = Service::azurite(folder.path()) else {
        return;
    };
    let container = format!("{}/{ACCOUNT}/box?restype=container&{TOKEN}", azurite.url);
    ureq::put(container)
        .header("x-ms-version", "2021-08-06")
        .send_empty()
        .unwrap();

    let (key, token) = (("AZURE_STORAGE_ACCOUNT_KEY", KEY), ("AZURE_STORAGE_SAS_TOKEN", TOKEN));
    keeps_a_replica(&connect(&azurite, "box/key", key));
    // Azurite knows no deletion by such a token, which is sent as a batch.
    let by_token = connect(&azurite, "box/token", token);
    assert_eq!(create(&by_token, 1, "one").unwrap(), Created::New);
    assert_eq!(create(&by_token, 1, "another").unwrap(), Created::Exists);

    let missing = refused(&connect(&azurite, "no-box/app", key));
    assert!(
        missing.contains("there is no container no-box of account devstoreaccount1"),
        "{missing}"
    );
    let other_key = KEY.replace("Eby8", "AAAA");
    let denied = refused(&connect(&azurite, "box/key", ("AZURE_STORAGE_ACCOUNT_KEY", &other_key)));
    assert!(
        denied.contains("credentials are those of AZURE_STORAGE_ACCOUNT_KEY"),
        "{denied}"
    );
}
