//! What goes to a source and what stays: the SQL itself. A push-down that silently stopped would still answer right.

use greylag_protocol::schema::Dialect::{DataFusion, MySql, Postgres, Sqlite};

use crate::{
    compare::rows,
    data::{TPCH_NAMES, odd, tpch},
    world::{World, schema_of},
};

/// The one sub-query of a statement.
async fn only(world: &World, sql: &str) -> String {
    let mut pushed = world.pushed(sql).await;
    assert_eq!(pushed.len(), 1, "{pushed:?}");
    pushed.remove(0)
}

/// Each statement with the one sub-query that it must lead to, at source `one`. All that differ are told together.
async fn sends(world: &World, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        let (sent, expected) = (only(world, sql).await, format!("one: {expected}"));
        if sent != expected {
            wrong.push(format!("{sql}\n  expected {expected}\n  sent     {sent}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn to_sqlite() {
    let world = World::new(&[("one", Sqlite, &[odd()])]);
    sends(&world, &[
        ("select t from odd", r#"SELECT "t" FROM "main"."odd""#),
        ("select count(n + 1) from odd", r#"SELECT "n" FROM "main"."odd""#),
        ("select 1 from odd", r#"SELECT 1 AS "one" FROM "main"."odd""#),
        ("select id from odd where s = 7", r#"SELECT "id" FROM "main"."odd" WHERE "s" = 7"#),
        ("select id from odd where t = 'it''s'", r#"SELECT "id" FROM "main"."odd" WHERE "t" = 'it''s'"#),
        ("select id from odd where m < 1.50", r#"SELECT "id" FROM "main"."odd" WHERE "m" < 1.50"#),
        (
            "select id from odd where d >= date '1995-03-15'",
            r#"SELECT "id" FROM "main"."odd" WHERE "d" >= '1995-03-15'"#,
        ),
        ("select id from odd where f > 0.5", r#"SELECT "id" FROM "main"."odd" WHERE "f" > 5.0e-1"#),
        ("select id from odd where f > 0.30000000000000004", r#"SELECT "id", "f" FROM "main"."odd""#),
        ("select id from odd where t like 'ab%'", r#"SELECT "id" FROM "main"."odd" WHERE "t" >= 'ab' AND "t" < 'ac'"#),
        ("select id from odd where t like '%x%'", r#"SELECT "id" FROM "main"."odd" WHERE instr("t", 'x') > 0"#),
        (
            "select id from odd where t like 'a%x'",
            r#"SELECT "id", "t" FROM "main"."odd" WHERE "t" >= 'a' AND "t" < 'b' AND (instr("t", 'x') > 0)"#,
        ),
        (
            "select id from odd where t not like '%x%'",
            r#"SELECT "id" FROM "main"."odd" WHERE NOT (instr("t", 'x') > 0)"#,
        ),
        ("select id from odd where t not like '%x%y%'", r#"SELECT "id", "t" FROM "main"."odd""#),
        ("select id from odd where s in (1, 2, 3, 4)", r#"SELECT "id" FROM "main"."odd" WHERE "s" IN (1, 2, 3, 4)"#),
        (
            "select id from odd where s > 1 or t is null",
            r#"SELECT "id" FROM "main"."odd" WHERE "s" > 1 OR ("t" IS NULL)"#,
        ),
        ("select id from odd where s > 1 and upper(t) = 'A'", r#"SELECT "id", "t" FROM "main"."odd" WHERE "s" > 1"#),
        ("select id from odd where b", r#"SELECT "id", "b" FROM "main"."odd""#),
        ("select * from odd limit 3", r#"SELECT "id", "t", "n", "s", "f", "m", "d", "b" FROM "main"."odd" LIMIT 3"#),
        ("select id from odd where s = 1 limit 3 offset 2", r#"SELECT "id" FROM "main"."odd" WHERE "s" = 1 LIMIT 5"#),
        ("select id from odd where upper(t) = 'A' limit 3", r#"SELECT "id", "t" FROM "main"."odd""#),
        (
            "select id from odd where t like 'a%x' limit 3",
            r#"SELECT "id", "t" FROM "main"."odd" WHERE "t" >= 'a' AND "t" < 'b' AND (instr("t", 'x') > 0)"#,
        ),
        (
            "select id, t from odd order by t desc, id limit 2",
            r#"SELECT "id", "t" FROM "main"."odd" ORDER BY "t" DESC NULLS FIRST, "id" ASC NULLS LAST LIMIT 2"#,
        ),
        ("select id, f from odd order by f limit 2", r#"SELECT "id", "f" FROM "main"."odd""#),
        ("select id from odd order by id", r#"SELECT "id" FROM "main"."odd""#),
        (
            "select count(*), min(t), sum(s) from odd",
            r#"SELECT count(*) AS "a1", min("t") AS "a2", sum("s") AS "a3" FROM "main"."odd""#,
        ),
        ("select sum(m) from odd", r#"SELECT "m" FROM "main"."odd""#),
        ("select avg(s) from odd", r#"SELECT "s" FROM "main"."odd""#),
        (
            "select t, count(*) from odd where s = 1 group by t having count(*) > 2",
            r#"SELECT "t", count(*) AS "a1" FROM "main"."odd" WHERE "s" = 1 GROUP BY "t" HAVING count(*) > 2"#,
        ),
        (
            "select t, count(*) as c from odd group by t order by c desc, t limit 1",
            r#"SELECT "t", count(*) AS "a1" FROM "main"."odd" GROUP BY "t" ORDER BY count(*) DESC NULLS FIRST, "t" ASC NULLS LAST LIMIT 1"#,
        ),
        ("select distinct t from odd", r#"SELECT "t" FROM "main"."odd" GROUP BY "t""#),
        ("select count(distinct t) from odd", r#"SELECT "t" FROM "main"."odd" GROUP BY "t""#),
        (
            "select id from odd where id in (select s from odd where t = 'a')",
            r#"SELECT "id" FROM "main"."odd" WHERE "id" IN (SELECT "s" FROM "main"."odd" WHERE "t" = 'a')"#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn to_files() {
    let world = World::new(&[("one", DataFusion, &[odd()])]);
    sends(&world, &[
        ("select id from odd where s = 7", r#"SELECT "id" FROM "main"."odd" WHERE "s" = arrow_cast('7', 'Int32')"#),
        ("select id from odd where t like '%a\\%b'", r#"SELECT "id" FROM "main"."odd" WHERE "t" LIKE '%a\%b'"#),
        (
            "select id from odd where upper(t) = 'A' limit 2",
            r#"SELECT "id" FROM "main"."odd" WHERE upper("t") = 'A' LIMIT 2"#,
        ),
        ("select id from odd where m * 2 > 1", r#"SELECT "id", "m" FROM "main"."odd""#),
        ("select id from odd where b", r#"SELECT "id" FROM "main"."odd" WHERE "b""#),
        (
            "select date_part('year', d), sum(m * 2) from odd group by 1",
            r#"SELECT date_part('year', "d") AS "k1", sum("m" * arrow_cast('2', 'Decimal128(20, 0)')) AS "a1" FROM "main"."odd" GROUP BY date_part('year', "d")"#,
        ),
        (
            "select count(*) filter (where s > 1), avg(m) from odd",
            r#"SELECT count(*) FILTER (WHERE "s" > arrow_cast('1', 'Int32')) AS "a1", avg("m") AS "a2" FROM "main"."odd""#,
        ),
        ("select array_agg(id) from odd", r#"SELECT "id" FROM "main"."odd""#),
        ("select random() as r from odd where random() < 2", r#"SELECT 1 AS "one" FROM "main"."odd""#),
    ])
    .await;
}

/// Text is compared by the database's collation, and then again by bytes: by DataFusion, or in the same statement where
/// nobody could check it later.
#[tokio::test]
async fn to_postgres() {
    let world = World::new(&[("one", Postgres, &[odd()])]);
    sends(&world, &[
        ("select id from odd where t = 'a'", r#"SELECT "id", "t" FROM "main"."odd" WHERE "t" = 'a'"#),
        (
            "select id from odd where t = 'a' limit 2",
            r#"SELECT "id" FROM "main"."odd" WHERE "t" = 'a' AND ("t" COLLATE "C") = 'a' LIMIT 2"#,
        ),
        ("select id from odd where t <> 'a'", r#"SELECT "id" FROM "main"."odd" WHERE ("t" COLLATE "C") <> 'a'"#),
        (
            "select id from odd where t < 'a'",
            r#"SELECT "id" FROM "main"."odd" WHERE convert_to("t", 'UTF8') < decode('61', 'hex')"#,
        ),
        (
            "select id from odd where t = 'back\\slash'",
            r#"SELECT "id", "t" FROM "main"."odd" WHERE "t" = E'back\\slash'"#,
        ),
        (
            "select id from odd where t like 'a%_b'",
            r#"SELECT "id" FROM "main"."odd" WHERE ("t" COLLATE "C") LIKE 'a%_b'"#,
        ),
        ("select id from odd where t like 'a\\%b'", r#"SELECT "id", "t" FROM "main"."odd""#),
        (
            "select id from odd where t in ('a', 'b', 'c', 'd')",
            r#"SELECT "id", "t" FROM "main"."odd" WHERE "t" IN ('a', 'b', 'c', 'd')"#,
        ),
        (
            "select id from odd where n = -9223372036854775808",
            r#"SELECT "id" FROM "main"."odd" WHERE "n" = CAST('-9223372036854775808' AS bigint)"#,
        ),
        (
            "select id from odd where d < date '1995-03-15' and m >= 0.05",
            r#"SELECT "id" FROM "main"."odd" WHERE "d" < DATE '1995-03-15' AND "m" >= 0.05"#,
        ),
        ("select id from odd where b and f > 1", r#"SELECT "id", "f" FROM "main"."odd" WHERE "b""#),
        (
            "select id, t from odd order by t desc, n nulls first limit 3",
            r#"SELECT "id", "t", "n" FROM "main"."odd" ORDER BY convert_to("t", 'UTF8') DESC, "n" NULLS FIRST LIMIT 3"#,
        ),
        (
            "select t, count(*), sum(n), sum(m), max(d) from odd group by t",
            r#"SELECT ("t" COLLATE "C") AS "k1", count(*) AS "a1", CAST(sum("n") AS bigint) AS "a2", CAST(sum("m") AS numeric(22,2)) AS "a3", max("d") AS "a4" FROM "main"."odd" GROUP BY ("t" COLLATE "C")"#,
        ),
        ("select count(*) from odd where t is null", r#"SELECT count(*) AS "a1" FROM "main"."odd" WHERE "t" IS NULL"#),
        ("select min(t) from odd", r#"SELECT "t" FROM "main"."odd""#),
        ("select 1 from odd", r#"SELECT CAST(1 AS bigint) AS "one" FROM "main"."odd""#),
    ])
    .await;
}

#[tokio::test]
async fn to_mysql() {
    let world = World::new(&[("one", MySql, &[odd()])]);
    sends(&world, &[
        ("select id from odd where t = 'a'", "SELECT `id`, `t` FROM `greylag_test`.`odd` WHERE `t` = 'a'"),
        (
            "select id from odd where t = 'a' limit 2",
            "SELECT `id` FROM `greylag_test`.`odd` WHERE `t` = 'a' AND CAST(CONVERT(`t` USING utf8mb4) AS BINARY) = X'61' LIMIT 2",
        ),
        (
            "select id from odd where t = 'ä'",
            "SELECT `id` FROM `greylag_test`.`odd` WHERE CAST(CONVERT(`t` USING utf8mb4) AS BINARY) = X'C3A4'",
        ),
        (
            "select id from odd where t > 'a'",
            "SELECT `id` FROM `greylag_test`.`odd` WHERE CAST(CONVERT(`t` USING utf8mb4) AS BINARY) > X'61'",
        ),
        (
            "select id from odd where t like '%a_'",
            "SELECT `id` FROM `greylag_test`.`odd` WHERE CONVERT(`t` USING utf8mb4) COLLATE utf8mb4_bin LIKE '%a_'",
        ),
        (
            "select id from odd where t like 'ä%'",
            "SELECT `id` FROM `greylag_test`.`odd` WHERE CONVERT(`t` USING utf8mb4) COLLATE utf8mb4_bin LIKE _utf8mb4 X'C3A425'",
        ),
        (
            "select id from odd where d < date '1995-03-15' and m >= 0.05",
            "SELECT `id` FROM `greylag_test`.`odd` WHERE `d` < DATE '1995-03-15' AND `m` >= 0.05",
        ),
        ("select id from odd where b and f > 1.5", "SELECT `id`, `b` FROM `greylag_test`.`odd` WHERE `f` > 1.5e0"),
        ("select id, t from odd order by t limit 3", "SELECT `id`, `t` FROM `greylag_test`.`odd`"),
        (
            "select id, n from odd order by n, s desc limit 3",
            "SELECT `id`, `n`, `s` FROM `greylag_test`.`odd` ORDER BY (`n` IS NULL), `n`, (`s` IS NULL) DESC, `s` DESC LIMIT 3",
        ),
        ("select t, count(*) from odd group by t", "SELECT `t` FROM `greylag_test`.`odd`"),
        (
            "select d, count(*), sum(s), sum(m) from odd group by d",
            "SELECT `d`, count(*) AS `a1`, CAST(sum(`s`) AS SIGNED) AS `a2`, CAST(sum(`m`) AS DECIMAL(22,2)) AS `a3` FROM `greylag_test`.`odd` GROUP BY `d`",
        ),
        ("select sum(n) from odd", "SELECT `n` FROM `greylag_test`.`odd`"),
    ])
    .await;
}

#[tokio::test]
async fn joins_inside_one_source() {
    let world = World::new(&[("shop", Sqlite, &tpch(&TPCH_NAMES))]);
    let join = "select n_name, count(*) from nation join region on n_regionkey = r_regionkey where r_name = 'ASIA' group by n_name";
    assert_eq!(
        only(&world, join).await,
        r#"shop: SELECT t1."n_name", count(*) AS "a1" FROM "main"."nation" AS t1 INNER JOIN "main"."region" AS t2 ON t1."n_regionkey" = t2."r_regionkey" WHERE t2."r_name" = 'ASIA' GROUP BY t1."n_name""#
    );
    // Not by a unique key: each side is read for itself.
    let many = "select count(*) from lineitem join orders on l_shipdate = o_orderdate";
    assert_eq!(world.pushed(many).await.len(), 2);
    // More would be sent than by reading both sides.
    let wide = "select * from lineitem join supplier on l_suppkey = s_suppkey";
    assert_eq!(world.pushed(wide).await.len(), 2);
    // Never an anti join.
    let anti = "select count(*) from customer where c_custkey not in (select o_custkey from orders)";
    assert_eq!(world.pushed(anti).await.len(), 2);
    let anti = "select count(*) from customer where not exists (select 1 from orders where o_custkey = c_custkey)";
    assert_eq!(world.pushed(anti).await.len(), 2);
    let left = "select c_name, count(o_orderkey) from orders left join customer on o_custkey = c_custkey and c_acctbal > 0 group by c_name";
    assert_eq!(
        only(&world, left).await,
        r#"shop: SELECT t2."c_name", count(t1."o_orderkey") AS "a1" FROM "main"."orders" AS t1 LEFT JOIN "main"."customer" AS t2 ON t1."o_custkey" = t2."c_custkey" AND t2."c_acctbal" > 0.00 GROUP BY t2."c_name""#
    );
}

#[tokio::test]
async fn only_the_columns_that_are_used_cross_the_wire() {
    let world = World::new(&[("shop", Sqlite, &tpch(&["customer"])), ("lake", DataFusion, &tpch(&["orders"]))]);
    let sql = "select c_name, sum(o_totalprice) from customer join orders on c_custkey = o_custkey \
               where c_mktsegment = 'BUILDING' and o_orderdate < date '1995-01-01' group by c_name";
    assert_eq!(
        world.pushed(sql).await,
        [
            r#"shop: SELECT "c_custkey", "c_name" FROM "main"."customer" WHERE "c_mktsegment" = 'BUILDING'"#,
            r#"lake: SELECT "o_custkey", "o_totalprice" FROM "main"."orders" WHERE "o_orderdate" < DATE '1995-01-01'"#,
        ]
    );
    let plan = world.plan(sql).await.unwrap();
    let reads: Vec<_> = plan.reads().unwrap().iter().map(|read| (&*read.table.table, read.columns.join(" "))).collect();
    let expected =
        [("orders", "o_custkey o_totalprice o_orderdate".into()), ("customer", "c_custkey c_name c_mktsegment".into())];
    assert_eq!(reads, expected);
    let plan = world.plan("select count(*) from orders where false or o_custkey > 5").await.unwrap();
    assert_eq!(plan.reads().unwrap()[0].columns, ["o_custkey"]);
}

/// A whole table in the order of its key: the source sorts, nothing is sorted here, and where the source can name its
/// content, the rest after a key can be asked for.
#[tokio::test]
async fn the_order_of_a_key() {
    for (dialect, keyed) in [(Postgres, true), (MySql, false), (Sqlite, false)] {
        let world = World::new(&[("one", dialect, &tpch(&["orders"]))]);
        let q = |name: &str| if dialect == MySql { format!("`{name}`") } else { format!("\"{name}\"") };
        let (key, table) = (q("o_orderkey"), format!("{}.{}", q(schema_of(dialect)), q("orders")));
        let sql = "select o_orderkey, o_totalprice from orders where o_custkey < 100 order by o_orderkey";
        let plan = world.plan(sql).await.unwrap();
        let [scan] = &plan.subqueries()[..] else { panic!("one sub-query") };
        let filter = format!("{} < 100", q("o_custkey"));
        let select = format!("SELECT {key}, {} FROM {table} WHERE {filter}", q("o_totalprice"));
        // As the engine would sort without being asked where NULLs go; SQLite's writer says it all the same.
        let nulls = if dialect == Sqlite { " ASC NULLS FIRST" } else { "" };
        assert_eq!(scan.sql, format!("{select} ORDER BY {key}{nulls}"));
        let rest = scan.keyset.as_ref().map(|keyset| {
            assert_eq!((keyset.column, &*keyset.schema, &*keyset.table), (0, schema_of(dialect), "orders"));
            keyset.rest.sql(-7).unwrap()
        });
        assert_eq!(rest.is_some(), keyed);
        if let Some(rest) = rest {
            assert_eq!(rest, format!("{select} AND {key} > -7 ORDER BY {key}"));
        }
        let explained = rows(&world.answer(&format!("explain {sql}")).await.unwrap());
        assert!(!explained[1][1].contains("SortExec"), "{dialect:?}: {}", explained[1][1]);
        let rule = if keyed { "`R0, R2, R3, R4, R5`" } else { "`R0, R3, R4, R5`" };
        assert_eq!(explained[2][4], rule);

        // The key is not the order, or not of the rows that come.
        for other in [
            "select o_orderkey from orders order by o_orderkey desc",
            "select o_orderkey, o_custkey from orders order by o_custkey",
            "select o_orderkey, o_custkey from orders order by o_orderkey, o_custkey",
            "select o_orderkey, count(*) from orders group by o_orderkey order by o_orderkey",
            "select o_orderkey from orders order by -o_orderkey",
        ] {
            let plan = world.plan(other).await.unwrap();
            assert!(plan.subqueries().iter().all(|scan| scan.keyset.is_none()), "{dialect:?} {other}");
        }
    }
}

#[tokio::test]
async fn rows_in_the_order_of_a_key_are_those_of_a_sort() {
    let world = World::new(&[("one", Sqlite, &tpch(&["orders"])), ("two", Sqlite, &tpch(&["customer"]))]);
    for sql in [
        "select * from orders order by o_orderkey",
        "select o_orderkey + 1, o_comment from orders where o_comment like '%a_e%' order by o_orderkey",
        "select * from (select o_orderkey k, o_custkey c from orders order by o_orderkey) where c < 50 order by k",
        "select o_orderkey, c_name from orders join customer on c_custkey = o_custkey order by o_orderkey",
        "select o_orderkey from orders order by o_orderkey offset 13",
        "select o_orderkey, sum(o_totalprice) over (order by o_orderkey) from orders order by o_orderkey",
    ] {
        let (found, expected) = (world.answer(sql).await.unwrap(), world.expected(sql).await.unwrap());
        assert!(!found.is_empty());
        assert_eq!(rows(&found), rows(&expected), "{sql}");
    }
}
