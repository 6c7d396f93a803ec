// The functions of the contract, as the catalog has them: those that begin with a tenant and its ticket.
import type { TestDatabase } from "../../support/database.ts";

/** What a caller gives after the tenant and the ticket. */
export type ContractFunction = { name: string; arguments: { name: string; type: string }[] };

/** Every one of them, but for `app.enter`, which gives nothing. */
export async function contractFunctions({ superuser }: TestDatabase): Promise<ContractFunction[]> {
  const { rows } = await superuser.query<ContractFunction>(
    `select p.oid::regproc::text as name,
       coalesce((select jsonb_agg(jsonb_build_object('name', p.proargnames[n + 1],
                   'type', format_type(p.proargtypes[n], null)) order by n)
                 from generate_series(2, p.pronargs - 1) as n), '[]') as arguments
     from pg_proc as p
     where p.pronamespace = 'app'::regnamespace and p.proargnames[1:2] = '{tenant_id,ticket}' and p.proname <> 'enter'
     order by 1`,
  );
  return rows;
}

/** A call for `$1` with the ticket `$2`, every other argument null. */
export function callOf({ name, arguments: given }: ContractFunction): string {
  return `select * from ${name}($1, $2${given.map(({ type }) => `, null::${type}`).join("")})`;
}
