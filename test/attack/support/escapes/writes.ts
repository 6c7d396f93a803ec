// Attempts to get out: by writing: every kind of statement that changes a row.
import type { Escape } from "./escape.ts";

/** By writing: every kind of statement that changes a row. */
export const WRITES: Escape[] = [
  {
    name: "rows of the other tenant, to be written",
    steps: [
      "insert into app.events (tenant_id, type) values ('$FOREIGN', 'a.b')",
      "insert into app.events (tenant_id, type) values ('$MINE', 'a.b') returning *",
      "insert into app.tenants (tenant_id, name) values ('$FOREIGN', 'x') on conflict (tenant_id) do update set name = 'x'",
      "insert into app.tenants (tenant_id, name) values ('$FOREIGN', 'x') on conflict do nothing returning *",
      "insert into app.findings select * from app.findings",
      "update app.tenants set name = 'x' where tenant_id = '$FOREIGN' returning *",
      "update app.tenants set tenant_id = '$FOREIGN'",
      "update app.findings set tenant_id = '$FOREIGN' returning *",
      "update app.job_runs as r set state = 'PENDING' from app.tenants as t where r.id = '$RUN' returning r.*, t.*",
      "delete from app.findings where tenant_id = '$FOREIGN' returning *",
      "delete from app.job_runs using app.tenants as t where id = '$RUN'",
      "with gone as (delete from app.findings returning *) select * from gone",
      "merge into app.tenants as t using (select '$FOREIGN'::uuid as id) as s on t.tenant_id = s.id when matched then delete",
      "merge into app.tenants as t using (select '$FOREIGN'::uuid as id) as s on t.tenant_id = s.id when matched then update set name = 'x'",
      "merge into app.tenants as t using (select '$FOREIGN'::uuid as id) as s on t.tenant_id = s.id when not matched then insert (tenant_id, name) values (s.id, 'x')",
      "merge into app.findings as t using app.findings as s on t.id = s.id when matched and s.rank > 0 then delete when not matched then do nothing",
      "select * from tenant.findings for update",
      "select * from app.job_runs where id = '$RUN' for key share",
      "select * from tenant.cost_lines_current for no key update",
      "copy app.findings from stdin",
      "lock table app.findings in access exclusive mode",
      "insert into graphile_worker._private_jobs (task_id) values (1)",
      "select graphile_worker.add_job('run', '{}')",
      "notify \"jobs:insert\"; update app.tenants set name = 'x'",
    ],
    refused: /^42501$/,
  },
];
