//! The methods and notifications the protocol names, over all revisions.
//!
//! Knowing a method is not the same as serving it: which methods exist in which era is decided by whoever routes.

macro_rules! methods {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A method name of the specification, or [`Method::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Method {
            $(#[doc = concat!("`", $text, "`")] $variant,)+
            /// A name no revision defines (extensions, vendors), or no method at all (a response).
            Other,
        }

        impl Method {
            /// Every named method, in declaration order; [`Method::Other`] is not among them.
            pub const ALL: &[Method] = &[$(Method::$variant),+];

            /// The method with exactly this name; names are case-sensitive.
            #[must_use]
            pub fn of(name: &str) -> Method {
                match name {
                    $($text => Method::$variant,)+
                    _ => Method::Other,
                }
            }

            /// The name on the wire; empty for [`Method::Other`].
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Method::$variant => $text,)+
                    Method::Other => "",
                }
            }
        }
    };
}

methods! {
    Initialize = "initialize",
    Initialized = "notifications/initialized",
    Ping = "ping",
    Discover = "server/discover",
    ToolsList = "tools/list",
    ToolsCall = "tools/call",
    ResourcesList = "resources/list",
    TemplatesList = "resources/templates/list",
    ResourcesRead = "resources/read",
    Subscribe = "resources/subscribe",
    Unsubscribe = "resources/unsubscribe",
    PromptsList = "prompts/list",
    PromptsGet = "prompts/get",
    Complete = "completion/complete",
    SetLevel = "logging/setLevel",
    Listen = "subscriptions/listen",
    TasksGet = "tasks/get",
    TasksResult = "tasks/result",
    TasksList = "tasks/list",
    TasksCancel = "tasks/cancel",
    TasksUpdate = "tasks/update",
    Cancelled = "notifications/cancelled",
    Progress = "notifications/progress",
    LogMessage = "notifications/message",
    RootsListChanged = "notifications/roots/list_changed",
    ToolsListChanged = "notifications/tools/list_changed",
    ResourcesListChanged = "notifications/resources/list_changed",
    PromptsListChanged = "notifications/prompts/list_changed",
    ResourceUpdated = "notifications/resources/updated",
    TaskStatus = "notifications/tasks/status",
    TaskNotification = "notifications/tasks",
    ElicitationComplete = "notifications/elicitation/complete",
    SubscriptionAcknowledged = "notifications/subscriptions/acknowledged",
    CreateMessage = "sampling/createMessage",
    ElicitationCreate = "elicitation/create",
    RootsList = "roots/list",
}

impl Method {
    /// Whether the name is a notification's (the specification keeps them under `notifications/`).
    #[must_use]
    pub fn is_notification(self) -> bool {
        self.as_str().starts_with("notifications/")
    }

    /// Whether the request names a task.
    #[must_use]
    pub fn is_about_a_task(self) -> bool {
        matches!(self, Self::TasksGet | Self::TasksResult | Self::TasksCancel | Self::TasksUpdate)
    }

    /// Whether a server may ask its client something because of such a request: what reads lists or changes the
    /// session itself gives no occasion to. What a task asks belongs to the request that waits for its result, not to
    /// those that look at it.
    #[must_use]
    pub fn may_ask(self) -> bool {
        matches!(
            self,
            Self::ToolsCall | Self::ResourcesRead | Self::PromptsGet | Self::Complete | Self::TasksResult | Self::Other
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_for_a_tasks_result_is_asked_what_the_task_asks() {
        assert!(Method::ToolsCall.may_ask() && Method::TasksResult.may_ask());
        for look in [Method::TasksGet, Method::TasksUpdate, Method::TasksCancel, Method::TasksList] {
            assert!(!look.may_ask(), "{look:?}");
        }
    }

    #[test]
    fn names_round_trip_and_are_exact() {
        for method in Method::ALL {
            assert_eq!(Method::of(method.as_str()), *method);
            assert_eq!(Method::of(&method.as_str().to_uppercase()), Method::Other);
        }
        assert_eq!(Method::of(""), Method::Other);
        assert_eq!(Method::of("tools/call "), Method::Other);
        assert_eq!(Method::of("skills/list"), Method::Other);
        assert!(Method::Progress.is_notification());
        assert!(!Method::ToolsCall.is_notification());
        assert!(!Method::Other.is_notification());
    }
}
