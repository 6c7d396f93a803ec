// The tables of tenants with their keys, as the catalog has them, and rows as JSON that can be put back in.

import type { Row } from "../../support/contract.ts";
import type { TestDatabase } from "../../support/database.ts";

/** A unique or exclusion key; `columns` are as `on conflict` takes them, which infers no exclusion from them. */
export type Key = { index: string; constraint: string | null; excludes: boolean; columns: string[] };
/** A foreign key by its columns, in order. */
export type ForeignKey = { constraint: string; columns: string[]; parent: string; parentColumns: string[] };
/** A table with a tenant; `columns` are those that can be written. */
export type KeyedTable = { name: string; columns: string[]; keys: Key[]; foreignKeys: ForeignKey[] };

/** Every table of `app` with a column `tenant_id`; partitions are left to their parents. */
export async function keyedTables({ superuser }: TestDatabase): Promise<KeyedTable[]> {
  const { rows } = await superuser.query<KeyedTable>(
    `select c.oid::regclass::text as name,
       array(select a.attname::text from pg_attribute as a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
             order by a.attnum) as columns,
       (select coalesce(jsonb_agg(jsonb_build_object('index', i.indexrelid::regclass::text, 'constraint', k.conname,
                 'excludes', i.indisexclusion, 'columns', array(select pg_get_indexdef(i.indexrelid, n, true)
                                  from generate_series(1, i.indnkeyatts) as n))), '[]')
        from pg_index as i
        left join pg_constraint as k on k.conindid = i.indexrelid and k.conrelid = c.oid and k.contype in ('p', 'u', 'x')
        where i.indrelid = c.oid and (i.indisunique or i.indisexclusion)) as keys,
       (select coalesce(jsonb_agg(jsonb_build_object('constraint', k.conname, 'parent', k.confrelid::regclass::text,
                 'columns', array(select a.attname from unnest(k.conkey) with ordinality as x (n, place)
                   join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = x.n order by x.place),
                 'parentColumns', array(select a.attname from unnest(k.confkey) with ordinality as x (n, place)
                   join pg_attribute as a on a.attrelid = k.confrelid and a.attnum = x.n order by x.place))), '[]')
        from pg_constraint as k where k.conrelid = c.oid and k.contype = 'f') as "foreignKeys"
     from pg_class as c
     where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
       and exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'tenant_id')
     order by 1`,
  );
  return rows;
}

/** The rows of a tenant, with other values in some of their columns. */
export async function copiesOf(
  { superuser }: TestDatabase,
  table: KeyedTable,
  tenantId: string,
  different: Row,
): Promise<Row[]> {
  const { rows } = await superuser.query<{ row: Row }>(
    `select to_jsonb(t) || $2 as row from ${table.name} as t where tenant_id = $1`,
    [tenantId, different],
  );
  return rows.map(({ row }) => row);
}

/** Inserts rows given as `$1`, a JSON array; what follows may add `on conflict …` and `returning …`. */
export function insertText(table: KeyedTable, rest = ""): string {
  const columns = table.columns.map((name) => `"${name}"`).join(", ");
  return `insert into ${table.name} as t (${columns})
    select ${columns} from jsonb_populate_recordset(null::${table.name}, $1) ${rest}`;
}
