// What ops.doctor() says, as a person in psql sees it, and the one lock under which roles are changed.
import type pg from "pg";
import { withClient } from "../../src/migrate.ts";

/** One row of ops.doctor(). */
export type Finding = {
  checked: string;
  state: "ok" | "warning" | "fault";
  found: string;
  fix: string | null;
};

/** The checks of what sql/superuser.sql does, which a cluster without a superuser cannot have. */
export const SUPERUSER_CHECKS = [
  ...["activity", "advisory_locks", "backup_role", "ddl", "exported_snapshots", "languages", "large_objects"],
  ...["logged_parameters", "replicator_role", "signals", "temporary_files", "volume", "wal_messages"],
];

/** What the doctor says to holdfast_ops, asked inside a transaction of somebody who may become it. */
export async function asPeople(client: pg.ClientBase): Promise<Finding[]> {
  await client.query("set local role holdfast_ops");
  const { rows } = await client.query<Finding>("select checked, state, found, fix from ops.doctor()");
  await client.query("set local role none");
  return rows;
}

/** The rows that differ from what was said before, by their check. */
export function changed(before: Finding[], now: Finding[]): Map<string, Finding> {
  const known = new Map(before.map((row) => [row.checked, JSON.stringify(row)]));
  return new Map(
    now.filter((row) => known.get(row.checked) !== JSON.stringify(row)).map((row) => [row.checked, row]),
  );
}

/** Roles are the cluster's: whoever changes one waits here for the others, as `bootstrap` does. */
export async function underRoleLock<T>(administrator: pg.ClientConfig, work: () => Promise<T>): Promise<T> {
  return withClient(administrator, (client) => locked(client, work));
}

/** The same, on a connection of the administrator that stays. */
export async function locked<T>(administrator: pg.Client, work: () => Promise<T>): Promise<T> {
  await administrator.query("select pg_advisory_lock(hashtext('holdfast.bootstrap'))");
  try {
    return await work();
  } finally {
    await administrator.query("select pg_advisory_unlock(hashtext('holdfast.bootstrap'))");
  }
}
