// What there is to be read, as the catalog has it.
import type { TestDatabase } from "../../support/database.ts";

/** A table or view with a column `tenant_id`, by its full name. */
export type Relation = { name: string; view: boolean; partition: boolean };

/** Every table with a tenant, partitions too, and every fence through which the tenant role reads one. */
export async function relationsWithTenant({ superuser }: TestDatabase): Promise<Relation[]> {
  const { rows } = await superuser.query<Relation>(
    `select c.oid::regclass::text as name, c.relkind not in ('r', 'p') as view, c.relispartition as partition
     from pg_class as c
     where c.relnamespace::regnamespace::text in ('app', 'app_private', 'ops', 'tenant')
       and (c.relkind in ('r', 'p')
         or (c.relkind in ('v', 'm', 'f') and has_table_privilege('holdfast_tenant', c.oid, 'select')))
       and exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'tenant_id')
     order by 1`,
  );
  return rows;
}
