create or replace function app_private.schedule_text(every interval, daily_at time) returns text
language sql
stable
return coalesce('every ' || every::text, 'daily at ' || daily_at::text, 'cohort');

comment on function app_private.schedule_text is 'How often a tenant has turns, in words; neither is as its cohort.';

grant execute on function app_private.schedule_text to holdfast_system;
