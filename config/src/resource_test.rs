//! Documents that are read, and what is said of those that are not.

#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;

fn parse(text: &str) -> Result<Vec<Resource>> {
    parse_resources(text, &|file| match file {
        "doctors.cedar" => Ok("permit (principal, action, resource);\n".into()),
        _ => Err(invalid(format!("`{file}` cannot be read"))),
    })
}

#[test]
fn reads_several_documents() {
    let text = "kind: Source\nname: orders\nconnector: postgres\noptions:\n  host: db\n  port: 5432\n  password: env:PGPASS\nreplicas: 2\n---\nkind: Source\nname: lake\nconnector: files\noptions: { path: /data }\nlabels: { site: a }\n";
    let resources = parse(text).unwrap();
    assert_eq!(resources.len(), 2);
    let ResourceContent::Source(first) = &resources[0].content else { panic!() };
    assert_eq!((first.options["port"].as_str(), first.replicas), ("5432", 2));
}

#[test]
fn reads_what_governs() {
    let text = "kind: Policy\nname: doctors\nfile: doctors.cedar\n---\nkind: Policy\nname: nobody\ntext: |\n  forbid (principal, action, resource);\n---\nkind: Tag\nname: pii\non:\n  - { tables: clinic.*.patients, columns: name }\n  - tables: lab.*.*\n---\nkind: Attribute\nname: ward\ntype: text\n---\nkind: Governance\nutc_offset: \"-03:30\"\nprices: { statement: 7 }\nbudgets:\n  - { role: analyst, rows_max: 1000 }\nweights: { clinic: 3 }\n---\nkind: Quota\norganisation: clinic\nagent: planner\nperiod: day\ncredits: 12.5\n";
    let mut resources = parse(text).unwrap();
    let policy = |text: &str| ResourceContent::Policy(text.to_owned());
    assert_eq!(resources[0].content, policy("permit (principal, action, resource);"));
    assert_eq!(resources[1].content, policy("forbid (principal, action, resource);"));
    let whole = TagPlace { tables: "lab.*.*".into(), columns: None };
    assert!(matches!(&resources[2].content, ResourceContent::Tag(on) if on.len() == 2 && on[1] == whole));
    assert_eq!(resources[3].content, ResourceContent::Attribute(AttributeKind::Text));
    let ResourceContent::Governance(settings) = &resources[4].content else { panic!() };
    assert_eq!((settings.utc_offset_minutes, settings.environment.as_str()), (-210, "production"));
    assert_eq!((settings.prices.statement, settings.prices.cpu_ms), (7, Prices::default().cpu_ms));
    assert_eq!(resources[5].content, ResourceContent::Quota(12_500_000));
    resources.sort_by_key(Resource::turn);
    let order: Vec<String> = resources.iter().map(|r| r.id.to_string()).collect();
    let expected =
        ["governance", "attribute ward", "tag pii", "policy doctors", "policy nobody", "quota clinic/planner per day"];
    assert_eq!(order, expected);
}

#[test]
fn says_what_is_wrong() {
    for (text, word) in [
        ("kind: Source\nname: Bad Name\nconnector: files\n", "Bad Name"),
        ("kind: Source\nname: a\nconnector: files\nreplica: 2\n", "did you mean `replicas`?"),
        ("kind: Sauce\nname: a\n", "did you mean `Source`?"),
        ("kind: Source\nname: a\nconnector: files\nreplicas: 0\n", "replicas"),
        ("kind: Policy\nname: p\n", "either `text` or `file`"),
        ("kind: Policy\nname: p\nfile: gone.cedar\n", "gone.cedar"),
        ("kind: Policy\nname: p\ntext: a\nfile: doctors.cedar\n", "either"),
        ("kind: Tag\nname: t\non: []\n", "`on`"),
        ("kind: Tag\nname: t\non: [{ table: a.b.c }]\n", "did you mean `tables`?"),
        ("kind: Attribute\nname: a\ntype: number\n", "number"),
        ("kind: Governance\nutc_offset: '2'\n", "+02:00"),
        ("kind: Quota\norganisation: o\nperiod: day\ncredits: 0.0000001\n", "six digits"),
        ("kind: Quota\norganisation: o\nperiod: day\ncredits: -1\n", "credits"),
        ("kind: Quota\norganisation: ' '\nperiod: day\ncredits: 1\n", "name"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidResource);
        assert!(error.message.contains(word), "{text}: {error}");
    }
}

#[test]
fn offsets_are_hours_and_minutes() {
    for (text, minutes) in [("+02:00", Some(120)), ("-03:30", Some(-210)), ("Z", Some(0)), ("+14:00", Some(840))] {
        assert_eq!(parse_utc_offset(text), minutes, "{text}");
    }
    for wrong in ["", "2", "+2:00", "+15:00", "+02:60", "02:00", "+02", "+0é:00"] {
        assert_eq!(parse_utc_offset(wrong), None, "{wrong}");
    }
}

#[test]
fn samples_are_valid() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).map_err(|e| invalid(format!("`{file}`: {e}")));
    let mut kinds = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let resources = parse_resources(&std::fs::read_to_string(&path).unwrap(), &read).unwrap();
            kinds.extend(resources.iter().map(Resource::turn));
        }
    }
    assert_eq!(kinds.len(), 6, "there is a sample of each kind");
}
