//! Three-valued logic: joins, sub-queries, lists and tests over NULLs, with both tables in one source, in two, and in
//! sources of either kind.

use greylag_protocol::schema::Dialect::{DataFusion, Sqlite};

use crate::{compare::same_rows, data::null_tables, world::World};

const STATEMENTS: [&str; 44] = [
    "select * from l where x not in (select y from r)",
    "select * from l where x not in (select y from r where y is not null)",
    "select * from l where x not in (select y from empty)",
    "select * from l where x in (select y from r)",
    "select * from l where x in (select k from r)",
    "select * from l where x not in (select k from r)",
    "select * from l where u in (select v from r)",
    "select * from l where u not in (select v from r)",
    "select * from l where exists (select 1 from r where r.y = l.x)",
    "select * from l where not exists (select 1 from r where r.y = l.x)",
    "select * from l where exists (select 1 from r where r.k = l.x and r.v = 'a')",
    "select * from l where x in (1, null)",
    "select * from l where x not in (1, null)",
    "select * from l where x not in (1, 2)",
    "select * from l where u in ('a', null)",
    "select * from l where not (x = 1)",
    "select * from l where not (x = 1 or u = 'a')",
    "select * from l where not (x = 1 and u = 'a')",
    "select * from l where x = 1 or u is null",
    "select * from l where (x = 2) is true",
    "select * from l where (x = 2) is not true",
    "select * from l where (x = 2) is unknown",
    "select * from l where x is distinct from 2",
    "select * from l where x is not distinct from null",
    "select * from l join r on l.x = r.y",
    "select * from l join r on l.x = r.k",
    "select * from l left join r on l.x = r.k",
    "select * from l left join r on l.x = r.k and r.v = 'a'",
    "select * from l left join r on l.x = r.k and l.u = 'a'",
    "select * from l left join r on l.x = r.k where r.k is null",
    "select * from l left join r on l.x = r.k where r.v is null",
    "select * from l right join r on l.x = r.k",
    "select * from l full join r on l.x = r.k",
    "select * from l left join empty on l.x = empty.k",
    "select * from l join empty on l.x = empty.k",
    "select count(*), count(x), count(distinct x), min(x), max(x), sum(x), avg(x) from l",
    "select count(*), count(k), min(v), max(y), sum(y) from empty",
    "select x, count(*), count(u), min(u), max(u) from l group by x",
    "select u, sum(x) from l group by u having sum(x) > 1 or sum(x) is null",
    "select distinct x from l",
    "select l.x, count(r.v) from l left join r on l.x = r.k group by l.x",
    "select x, (select max(y) from r) from l where x < (select max(k) from r)",
    "select x, (select max(y) from r where r.k = l.x) from l",
    "select coalesce(x, -1), nullif(u, 'a'), case when x > 1 then u end from l",
];

/// Every statement, answered alike.
pub async fn all(world: &World) {
    for sql in STATEMENTS {
        same_rows(world, sql).await;
    }
}

#[tokio::test]
async fn in_one_source() {
    for dialect in [DataFusion, Sqlite] {
        all(&World::new(&[("one", dialect, &null_tables())])).await;
    }
}

#[tokio::test]
async fn in_two_sources() {
    for (first, second) in [(DataFusion, Sqlite), (Sqlite, DataFusion), (Sqlite, Sqlite)] {
        let tables = null_tables();
        all(&World::new(&[("one", first, &tables[..1]), ("two", second, &tables[1..])])).await;
    }
}
