// Statements on a table `$t`, where `$n` is a number of its own, that a tenant may try, chosen so that most of them want no row of it: what an evaluation
// row by row would answer with silence.

/** Its text; `onView` is false for what cannot be asked of a view that is a join. */
export type Statement = { name: string; text: string; onView: boolean };

const reads: [string, string][] = [
  ["a select", "select * from $t"],
  ["a select that wants nothing", "select * from $t where false"],
  ["a select of no row", "select 1 from $t limit 0"],
  ["exists", "select exists (select from $t)"],
  [
    "an aggregate over nobody",
    "select count(*) from $t where tenant_id = '00000000-0000-0000-0000-000000000000'",
  ],
  ["a null tenant", "select tenant_id from $t where tenant_id is null"],
  ["a join with itself", "select from $t as a join $t as b on b.tenant_id = a.tenant_id"],
  [
    "a common table",
    "with t as (select * from $t) select 1 from (select 1 as one) as x left join t on false",
  ],
  ["a sub-select", "select (select count(*) from $t)"],
  ["a prepared generic plan", "prepare plan_of_$n as select * from $t; execute plan_of_$n"],
  ["a cursor", "declare held cursor for select * from $t; fetch 0 from held"],
  ["copy to", "copy (select * from $t) to stdout"],
  ["explain", "explain select * from $t"],
];

const writes: [string, string][] = [
  ["a select for update", "select 1 from $t limit 0 for update"],
  ["an insert that gives way", "insert into $t default values on conflict do nothing"],
  ["an update of nothing", "update $t set tenant_id = tenant_id where false"],
  ["a delete of nothing", "delete from $t where false"],
  ["a merge", "merge into $t as t using (select 1) as s on false when not matched then do nothing"],
];

let asked = 0;

/** The statement on a table; what it prepares has a name that no other has. */
export function statementOn(text: string, table: string): string {
  asked += 1;
  return text.replaceAll("$t", table).replaceAll("$n", String(asked));
}

/** The eighteen. */
export const STATEMENTS: Statement[] = [
  ...reads.map(([name, text]) => ({ name, text, onView: true })),
  ...writes.map(([name, text]) => ({ name, text, onView: false })),
];

/**
 * Statements of which the planner drops every mention of `$t`. Row security refuses them while it is off, for it looks at
 * the text; while it is on it looks at the plan, and in the plan there is no table.
 */
export const PLANNED_AWAY: string[] = [
  "with t as (select * from $t) select 1",
  "select 1 where false and exists (select from $t)",
  "select case when false then (select count(*) from $t) end",
  "select coalesce(1, (select 1 from $t))",
  "select * from (select * from $t offset 0) as x where false",
  "select 1 union all select 1 from (select * from $t offset 0) as x where false",
  "select from (select * from $t limit 1) as a join (select 1 where false) as b on true",
];
