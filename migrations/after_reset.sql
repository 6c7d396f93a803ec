-- Only our roles may connect. Run on a new database before its first migration, and by `npm run db:migrate` each time.
revoke all on database :DATABASE_NAME from public;
grant connect on database :DATABASE_NAME to
  holdfast_admin, holdfast_service, holdfast_worker, holdfast_ops, holdfast_metrics;
grant all on database :DATABASE_NAME to :DATABASE_OWNER;
