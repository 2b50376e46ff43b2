"""The pages of the dashboard, one line each."""

from __future__ import annotations

from control_plane.api.downloads import download_version
from control_plane.api.route import Access
from control_plane.dashboard import account, application, home, model, monitor, organization, second_factor, works
from control_plane.dashboard.page import DashboardFile as File
from control_plane.dashboard.page import DashboardPage as Page

ORG = "/organizations/{org}"
APP = f"{ORG}/apps/{{app}}"
MODEL = f"{APP}/models/{{model}}"
VERSION = f"{MODEL}/versions/{{version}}"

PAGES: tuple[Page, ...] = (
    Page("/", home.show_home, Access.TOKEN, "home.html"),
    Page("/account", account.show_account, Access.TOKEN, "account.html"),
    Page(second_factor.PATH, second_factor.show_second_factor, Access.PERSON, second_factor.TEMPLATE),
    Page("/new-organization", account.show_new_organization, Access.TOKEN, "new-organization.html"),
    Page(ORG, home.show_applications, Access.VIEWER, "applications.html"),
    Page(f"{ORG}/new-app", home.show_new_application, Access.DEVELOPER, "new-app.html"),
    Page(f"{ORG}/members", organization.show_members, Access.VIEWER, "members.html"),
    Page(f"{ORG}/audit", organization.show_audit_log, Access.VIEWER, "audit.html"),
    Page(f"{ORG}/works", works.show_works, Access.VIEWER, "works.html"),
    Page(f"{ORG}/settings", organization.show_settings, Access.OWNER, "organization-settings.html"),
    Page(APP, application.show_models, Access.VIEWER, "models.html"),
    Page(f"{APP}/environments", application.show_environments, Access.VIEWER, "environments.html"),
    Page(f"{APP}/settings", application.show_settings, Access.DEVELOPER, "app-settings.html"),
    Page(MODEL, model.show_manage, Access.VIEWER, "manage.html"),
    Page(f"{MODEL}/deliveries", model.show_deliveries, Access.VIEWER, "deliveries.html"),
    Page(f"{MODEL}/monitor", monitor.show_monitor, Access.VIEWER, "monitor.html", monitor.POLICY),
    Page(f"{MODEL}/integrate", model.show_integrate, Access.VIEWER, "integrate.html"),
    Page(VERSION, model.show_version, Access.VIEWER, "version.html"),
    Page(f"{VERSION}/compare", model.show_compare, Access.VIEWER, "compare.html"),
    Page(f"{VERSION}/deploy", model.show_deploy, Access.DEVELOPER, "deploy.html"),
)

FILES: tuple[File, ...] = (
    File(f"/download{VERSION}", download_version, Access.VIEWER),
    File(f"{ORG}/audit.csv", organization.save_audit_log, Access.VIEWER),
    File(f"{MODEL}/monitor/{{figure}}.csv", monitor.save_figure, Access.VIEWER),
    File(f"{MODEL}/monitor/{{figure}}.chart", monitor.draw_figure, Access.VIEWER),
)
