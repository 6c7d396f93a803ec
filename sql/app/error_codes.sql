create or replace view app.error_codes as
select e.sqlstate, e.name, e.http_status, e.meaning
from (values
  ('RL101', 'rls_enforcement_failed', 500,
   'No tenant was entered, or the ticket does not open it. Nothing was read or changed.'),
  ('TK101', 'ticket_key_not_found',   404, 'No ticket key has that number.'),
  ('TK201', 'ticket_key_last',        409, 'It is the last ticket key in use: without it, nobody could enter.'),
  ('TN101', 'tenant_not_found',       404, 'No tenant has that name or id.'),
  ('TN102', 'tenant_name_taken',      409, 'Another tenant has that name.'),
  ('TN103', 'tenant_invalid',         400, 'A name, tier or time zone is not one that a tenant may have.'),
  ('LB101', 'budget_exceeded',        402, 'The hold does not fit the budget; detail.reason says why.'),
  ('LB102', 'no_price',               402, 'No price is known for that model, so its cost has no bound.'),
  ('LB103', 'idempotency_conflict',   422, 'The key was used before, with another request.'),
  ('LB104', 'reservation_not_found',  404, 'No reservation of this tenant has that id.'),
  ('LB105', 'reservation_invalid',    400, 'A number is missing, negative or too large.'),
  ('LB201', 'reservation_closed',     409, 'The reservation has ended in another way.'),
  ('LB301', 'budget_busy',            503, 'The budget was locked by others for too long. Try again.'),
  ('JB101', 'job_run_not_found',      404, 'No run of this tenant has that id.'),
  ('JB102', 'job_kind_unknown',       400, 'There is no such kind of job.'),
  ('JB103', 'job_queue_full',         429, 'As many runs of that kind wait as the tenant may have.'),
  ('JB104', 'job_input_invalid',      422, 'The input breaks the schema of its kind; detail says where.'),
  ('JB105', 'job_kind_not_enqueueable', 403, 'A tenant may not ask for that kind of job.'),
  ('JB201', 'job_run_fenced',         409, 'The run has gone on without this attempt; its work is rolled back.'),
  ('JB202', 'job_transition_refused', 409, 'That change of state is not in app.job_run_transitions.'),
  ('JB203', 'job_cancelled',          409, 'The end of the run was asked for while it ran.'),
  ('JB204', 'replay_superseded',      409, 'A newer turn of the same kind has completed since.'),
  ('JB205', 'job_not_dead',           409, 'The run is no dead letter, so there is nothing to replay or put aside.'),
  ('JB206', 'job_ended',              409, 'The run has ended already.'),
  ('IM101', 'import_not_found',       404, 'No import of this tenant has that id.'),
  ('IM102', 'import_invalid',         422, 'A line of the import breaks a rule of the table.'),
  ('IM103', 'import_empty',           422, 'The import has no line.'),
  ('IM201', 'import_closed',          409, 'The import has been published or has failed.'),
  ('NA101', 'analysis_not_found',     404, 'No analysis of this tenant has that id.'),
  ('NA102', 'analysis_invalid',       400, 'The wording of an analysis does not have the shape that SQL accepts.'),
  ('VR201', 'optimistic_lock_failed', 409, 'The row has changed since it was read.'),
  ('OP101', 'reason_required',        400, 'A change by a person needs a reason of at least 3 characters.'),
  ('OP102', 'argument_invalid',       400, 'An argument is outside of what the function takes.')
) as e (sqlstate, name, http_status, meaning);

comment on view app.error_codes is 'Every SQLSTATE that holdfast raises, with its fixed name and HTTP status.';
comment on column app.error_codes.sqlstate is
  'Two letters for the area, a digit for the verdict (1 refused, 2 wrong state, 3 try later), two to count.';
comment on column app.error_codes.name is 'The message of the error: logs, metrics and clients match on it.';
comment on column app.error_codes.http_status is 'The status that the HTTP endpoint answers with.';
comment on column app.error_codes.meaning is 'What happened, for a person.';

grant select on app.error_codes
  to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_system, holdfast_ops;
